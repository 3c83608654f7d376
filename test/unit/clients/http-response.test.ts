import test from 'ava';
import { HttpResponse } from '../../../scripts/clients/http-response.js';
import { ProtocolError } from '../../../src/lib/index.js';

const RESPONSE = 'HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 5\r\n\r\nhello';

test('status and body come out, split at any offset', (t) => {
  for (let cut = 0; cut <= RESPONSE.length; cut++) {
    let body = '';
    const response = new HttpResponse((piece) => {
      body += piece.toString();
    });
    response.write(Buffer.from(RESPONSE.slice(0, cut)));
    t.is(response.done, cut === RESPONSE.length);
    response.write(Buffer.from(RESPONSE.slice(cut)));
    t.true(response.done);
    t.is(response.status, 200);
    t.is(body, 'hello');
  }
});

test('bytes beyond the announced length are refused', (t) => {
  t.throws(() => new HttpResponse().write(Buffer.from(`${RESPONSE}!`)), {
    instanceOf: ProtocolError,
  });
});

test('a header without a usable length and an endless header are refused', (t) => {
  for (const text of [
    'HTTP/1.1 200 OK\r\n\r\n',
    'HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n',
    'SSH-2.0-OpenSSH\r\n\r\n',
    'x'.repeat(20_000),
  ]) {
    t.throws(() => new HttpResponse().write(Buffer.from(text)), { instanceOf: ProtocolError });
  }
});

test('an empty body is complete with the header', (t) => {
  const response = new HttpResponse();
  response.write(Buffer.from('HTTP/1.0 204 No\r\nContent-Length: 0\r\n\r\n'));
  t.true(response.done);
});
