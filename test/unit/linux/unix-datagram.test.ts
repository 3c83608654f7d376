import { join } from 'node:path';
import test from 'ava';
import { OperatorError } from '../../../src/lib/index.js';
import {
  encodeUnixAddress,
  SystemCallError,
  UnixDatagramSender,
} from '../../../src/linux/index.js';
import { NotifySocket } from '../../support/notify-socket.js';
import { temporaryFolder } from '../../support/temporary.js';

test('a path ends with a zero byte, an abstract name begins with one', (t) => {
  t.deepEqual(encodeUnixAddress('/a'), Buffer.from('\x01\0/a\0'));
  t.deepEqual(encodeUnixAddress('@a'), Buffer.from('\x01\0\0a'));
  t.is(encodeUnixAddress(`/${'x'.repeat(106)}`).length, 110);
});

test('an address of another kind, or too long a one, is refused', (t) => {
  const long = 'x'.repeat(107);
  for (const text of ['', '@', 'a', 'vsock:2:1234', `/${long}`, `@${long}x`]) {
    t.throws(() => encodeUnixAddress(text), { instanceOf: OperatorError }, text);
  }
});

test('a datagram arrives at a path and at an abstract name', async (t) => {
  for (const address of [join(temporaryFolder(t), 's'), `@colo-test-${process.pid}`]) {
    const listener = await NotifySocket.listen(t, address);
    const sender = new UnixDatagramSender(address);
    sender.send(Buffer.from('one\ntwo'));
    await listener.waitFor(/^one\|two$/);
    sender.close();
    sender.close();
    t.deepEqual(listener.datagrams, ['one|two']);
  }
});

test('nobody who listens is an error to be told', (t) => {
  const sender = new UnixDatagramSender(join(temporaryFolder(t), 'none'));
  const error = t.throws(() => sender.send(Buffer.from('x')), { instanceOf: SystemCallError });
  t.is(error?.errno, 2);
  sender.close();
});
