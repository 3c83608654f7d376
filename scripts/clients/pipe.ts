/**
 * Joins stdin and stdout with one TCP connection: `node pipe.js <host> <port>`. The harness starts
 * it inside a network namespace to talk to a port that only exists there. Exit code 1 if the
 * connection fails; ends when either side does.
 */
import { connect } from 'node:net';

const [host = '', port = ''] = process.argv.slice(2);
const socket = connect({ host, port: Number(port), noDelay: true });
socket.on('error', (error) => {
  process.stderr.write(`${host}:${port}: ${error.message}\n`);
  process.exitCode = 1;
});
socket.pipe(process.stdout);
process.stdin.pipe(socket);
socket.on('close', () => process.stdin.destroy());
