/**
 * A TCP conversation from inside a namespace, run as a program by the tests: sockets belong to the
 * namespace of the process that opens them.
 *
 *   node talk.js connect HOST PORT LINES [TEXT]   sends TEXT, prints the first LINES lines
 *   node talk.js fetch   HOST PORT TEXT           sends TEXT, prints all that comes until FIN
 *   node talk.js pour    HOST PORT TEXT           the same, but sends FIN behind TEXT
 *   node talk.js tls     HOST PORT TEXT           fetch over TLS; first prints the certificate's
 *                                                 SHA-256
 *   node talk.js txt     HOST NAME SIZE           asks DNS for TXT with room for SIZE bytes
 *                                                 by EDNS; prints the answer's size, TC bit and record count
 *   node talk.js listen  PORT LINES               prints "listening"; then, for the first
 *   connection,
 *                                                 numbered lines out and its first LINES lines in
 */
import { createSocket } from 'node:dgram';
import { connect, createServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { connect as connectTls } from 'node:tls';

const LINE_INTERVAL_MS = 20;

function printLines(socket: Socket, count: number): void {
  let left = count;
  createInterface({ input: socket }).on('line', (line) => {
    if (left-- > 0) console.log(line);
    if (left === 0) socket.destroy();
  });
}

function listen(port: number, lines: number): void {
  const server = createServer((socket) => {
    server.close();
    let next = 0;
    const timer = setInterval(() => socket.write(`${next++} 0\n`), LINE_INTERVAL_MS);
    socket.on('close', () => clearInterval(timer));
    printLines(socket, lines);
  });
  server.listen(port, () => console.log('listening'));
}

/** A query of RFC 1035 section 4.1 with an OPT record of RFC 6891 section 6.1.2. */
function txtQuery(name: string, sizeBytes: number): Buffer {
  const header = Buffer.from([0xc0, 0x10, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
  const labels = name.split('.').map((label) => `${String.fromCharCode(label.length)}${label}`);
  const question = Buffer.from(`${labels.join('')}\0\0\x10\0\x01`, 'latin1');
  const opt = Buffer.from([0, 0, 41, sizeBytes >> 8, sizeBytes & 255, 0, 0, 0, 0, 0, 0]);
  return Buffer.concat([header, question, opt]);
}

function askTxt(server: string, name: string, sizeBytes: number): void {
  const socket = createSocket('udp4');
  socket.on('message', (answer) => {
    const truncated = (answer.readUInt8(2) >> 1) & 1;
    console.log(`${answer.length} ${truncated} ${answer.readUInt16BE(6)}`);
    socket.close();
  });
  socket.send(txtQuery(name, sizeBytes), 53, server);
}

const [verb, ...args] = process.argv.slice(2);
const [host = '', port = '', third = '', text = ''] = args;
if (verb === 'connect') {
  const socket = connect(Number(port), host, () => socket.write(text));
  printLines(socket, Number(third));
} else if (verb === 'fetch' || verb === 'pour') {
  const socket = connect(Number(port), host, () => {
    socket.write(third);
    // A server may take an early FIN for a client that has gone: nginx was seen to.
    if (verb === 'pour') socket.end();
  });
  socket.pipe(process.stdout);
} else if (verb === 'tls') {
  const socket = connectTls({ host, port: Number(port), rejectUnauthorized: false }, () => {
    console.log(socket.getPeerCertificate().fingerprint256);
    socket.write(third);
  });
  socket.pipe(process.stdout);
} else if (verb === 'txt') {
  askTxt(host, port, Number(third));
} else if (verb === 'listen') {
  listen(Number(host), Number(port));
} else {
  throw new Error(`Unknown verb ${verb}`);
}
