/** The gate against a model that is nothing but a list of frames with their epochs. */
import test from 'ava';
import fc from 'fast-check';
import { encodeBatch, OutputGate } from '../../../src/proxy/index.js';
import { framesOf } from './arbitraries.js';

type Step =
  | { kind: 'push'; frames: number }
  | { kind: 'close' | 'open' | 'hold' | 'silence' }
  | { kind: 'commit'; back: number };

const stepArbitrary: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({ kind: fc.constant('push'), frames: fc.integer({ min: 1, max: 3 }) }),
  },
  { weight: 4, arbitrary: fc.constant<Step>({ kind: 'close' }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('commit'), back: fc.nat({ max: 2 }) }) },
  {
    weight: 1,
    arbitrary: fc.constantFrom<Step[]>({ kind: 'open' }, { kind: 'hold' }, { kind: 'silence' }),
  },
) as fc.Arbitrary<Step>;

/** What was said and not yet released or dropped, and everything that left, in order. */
class Model {
  held: { name: string; epoch: number }[] = [];
  left: string[] = [];
  dropped = 0;

  release(upTo: number): void {
    this.left.push(...this.held.filter(({ epoch }) => epoch <= upTo).map(({ name }) => name));
    this.held = this.held.filter(({ epoch }) => epoch > upTo);
  }
}

test('frames leave in order, none before its commit, none twice, and none is lost', (t) => {
  fc.assert(
    fc.property(fc.array(stepArbitrary, { maxLength: 60 }), (steps) => {
      const gate = new OutputGate();
      const model = new Model();
      const left: string[] = [];
      let said = 0;
      let epoch = 0;
      const send = (batches: readonly Buffer[]) => left.push(...framesOf(batches));
      for (const step of steps) {
        switch (step.kind) {
          case 'push': {
            const frames = Array.from({ length: step.frames }, () => namedFrame(said++));
            const names = frames.map((frame) => frame.toString('hex'));
            const batch = encodeBatch(frames);
            if (gate.state === 'holding')
              model.held.push(...names.map((name) => ({ name, epoch })));
            else if (gate.state === 'open') model.left.push(...names);
            else model.dropped += names.length;
            if (gate.push(batch) === 'passed') send([batch]);
            break;
          }
          case 'close':
            if (gate.state !== 'holding') break;
            gate.closeEpoch(epoch++);
            break;
          case 'commit': {
            const committed = epoch - 1 - step.back;
            if (gate.state === 'holding') model.release(committed);
            send(gate.release(committed));
            break;
          }
          case 'open':
            model.release(Number.POSITIVE_INFINITY);
            send(gate.open());
            break;
          case 'hold':
            gate.hold(++epoch);
            break;
          case 'silence':
            model.dropped += model.held.length;
            model.held = [];
            gate.silence();
            break;
        }
        t.deepEqual(left, model.left);
        const { heldFrames, releasedFrames, droppedFrames } = gate.counters;
        t.is(heldFrames, model.held.length);
        t.is(droppedFrames, model.dropped);
        t.is(heldFrames + releasedFrames + droppedFrames, said);
      }
    }),
  );
});

function namedFrame(name: number): Buffer {
  const frame = Buffer.alloc(24);
  frame.writeUInt32BE(name, 0);
  return frame;
}
