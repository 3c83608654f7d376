/** The log against its specification, written as one filter over everything that was pushed. */
import test from 'ava';
import fc from 'fast-check';
import { encodeBatch, InboundLog } from '../../../src/proxy/index.js';

const OVERLAP_US = 20;

const stepArbitrary = fc.record({
  kind: fc.constantFrom(
    ...(['push', 'push', 'push', 'mark', 'commit', 'commitUnmarked'] as const),
    ...(['deliver', 'deliver', 'rewind'] as const),
  ),
  laterUs: fc.nat({ max: 15 }),
  exact: fc.boolean(),
});

test('what no committed checkpoint contains, or may have missed, is kept in order', (t) => {
  fc.assert(
    fc.property(fc.array(stepArbitrary, { maxLength: 60 }), (steps) => {
      const log = new InboundLog({ overlapUs: OVERLAP_US });
      let kept: { epoch: number; arrivedUs: number; name: number }[] = [];
      let nowUs = 0;
      let keepFromUs = 0;
      let next = 0;
      let epoch = 0;
      let committed = 0;
      let name = 0;
      const forget = () => {
        kept = kept.filter((batch) => batch.epoch >= epoch || batch.arrivedUs >= keepFromUs);
      };
      for (const { kind, laterUs, exact } of steps) {
        nowUs += laterUs;
        switch (kind) {
          case 'push':
            log.push(epoch, namedBatch(name), nowUs);
            kept.push({ epoch, arrivedUs: nowUs, name });
            name++;
            break;
          case 'mark':
            // Fewer than the bound are outstanding: one transaction runs at a time.
            if (epoch - committed >= 8) break;
            epoch++;
            keepFromUs = exact ? Number.POSITIVE_INFINITY : nowUs - OVERLAP_US;
            log.mark(epoch, nowUs, exact);
            if (committed === epoch) forget();
            break;
          case 'deliver': {
            const unmarked = committed > epoch;
            const due = unmarked
              ? undefined
              : kept.find((batch) => batch.name >= next && batch.epoch <= committed);
            t.deepEqual(log.peek(committed), due && namedBatch(due.name));
            if (due === undefined) break;
            log.delivered();
            next = due.name + 1;
            break;
          }
          case 'rewind':
            log.rewind();
            next = 0;
            break;
          case 'commitUnmarked':
            if (committed > epoch) break;
            committed = epoch + 1;
            log.committed(committed);
            break;
          case 'commit':
            if (committed >= epoch) break;
            committed = epoch;
            log.committed(epoch);
            forget();
        }
        t.deepEqual(
          log.remaining(),
          kept.map((batch) => namedBatch(batch.name)),
        );
      }
      t.is(log.counters.batches, kept.length);
      t.is(log.counters.droppedFrames, 0);
    }),
  );
});

function namedBatch(name: number): Buffer {
  const frame = Buffer.alloc(24);
  frame.writeUInt32BE(name, 0);
  return encodeBatch([frame]);
}
