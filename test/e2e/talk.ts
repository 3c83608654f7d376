/**
 * A TCP conversation from inside a namespace, run as a program by the tests: sockets belong to the
 * namespace of the process that opens them.
 *
 *   node talk.js connect HOST PORT LINES [TEXT]   sends TEXT, prints the first LINES lines
 *   node talk.js fetch   HOST PORT TEXT           sends TEXT, prints all that comes until FIN
 *   node talk.js pour    HOST PORT TEXT           the same, but sends FIN behind TEXT
 *   node talk.js listen  PORT LINES               prints "listening"; then, for the first
 *   connection,
 *                                                 numbered lines out and its first LINES lines in
 */
import { connect, createServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline';

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
} else if (verb === 'listen') {
  listen(Number(host), Number(port));
} else {
  throw new Error(`Unknown verb ${verb}`);
}
