import { readFileSync } from 'node:fs';
import test from 'ava';
import fc from 'fast-check';
import { encodeQmpCommand, QmpDecoder } from '../../../src/emulator/qmp-wire.js';
import { ProtocolError } from '../../../src/lib/index.js';
import { goldenPath } from '../../support/golden.js';

const golden = readFileSync(goldenPath('qmp-7.2.txt'));
const LINE_MAX = 1024;

test('a session decodes the same however it is split', (t) => {
  const whole = new QmpDecoder(LINE_MAX).write(golden);
  fc.assert(
    fc.property(fc.array(fc.nat(golden.length), { maxLength: 40 }), (cuts) => {
      const decoder = new QmpDecoder(LINE_MAX);
      const edges = [0, ...cuts.sort((a, b) => a - b), golden.length];
      const messages = edges
        .slice(1)
        .flatMap((end, i) => decoder.write(golden.subarray(edges[i], end)));
      decoder.end();
      t.deepEqual(messages, whole);
    }),
  );
});

test('random bytes are refused or decoded, and never kept beyond the limit', (t) => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 200 })), (chunks) => {
      const decoder = new QmpDecoder(100);
      try {
        for (const chunk of chunks) decoder.write(Buffer.from(chunk));
      } catch (error) {
        t.true(error instanceof ProtocolError);
      }
    }),
  );
});

test('a command is one line of JSON, whatever its arguments', (t) => {
  fc.assert(
    fc.property(fc.nat(), fc.dictionary(fc.string(), fc.jsonValue()), (id, args) => {
      const line = encodeQmpCommand(id, 'x', args);
      t.is(line.indexOf('\n'), line.length - 1);
      // Through JSON once before comparing: it has no -0.
      t.is(
        JSON.stringify(JSON.parse(line).arguments),
        JSON.stringify(JSON.parse(JSON.stringify(args))),
      );
    }),
  );
});
