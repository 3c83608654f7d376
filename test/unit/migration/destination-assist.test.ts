import test from 'ava';
import { DestinationCore, type DestinationOutput } from '../../../src/migration/index.js';
import { HELLO } from '../../support/migration-sections.js';

const IMAGE = '7e'.repeat(16);

/** A destination that has said `accepted`, with its image on offer where the source wants it. */
function accepted(assisted: boolean): { core: DestinationCore; outputs: DestinationOutput[] } {
  const core = new DestinationCore({
    silenceTimeoutUs: 1_000_000,
    recoverTimeoutUs: 1_000_000,
    recorded: undefined,
  });
  const section = { ...HELLO, choices: { ...HELLO.choices, assisted } };
  core.step({ kind: 'section', session: 1, section }, 0);
  const outputs = core.step(
    { kind: 'prepared', host: 'b', qemuVersion: '7', image: IMAGE, verdictsJson: '[]' },
    0,
  );
  return { core, outputs };
}

function ask(core: DestinationCore, answer: 'digests' | 'known'): DestinationOutput[] {
  return core.step({ kind: 'section', session: 1, section: { kind: 'assist', answer } }, 0);
}

test('digests are read once, and not at all for a source that knows what has changed', (t) => {
  for (const answer of ['digests', 'known'] as const) {
    const { core } = accepted(true);
    const expected = answer === 'digests' ? [{ kind: 'readDigests', image: IMAGE }] : [];
    t.deepEqual(ask(core, answer), expected as DestinationOutput[]);
    const again = ask(core, 'digests').map(({ kind }) => kind);
    t.true(again.includes('closeSession') && again.includes('discard'), String(again));
  }
});

test('an image is offered to a source that asks for it, and to no other', (t) => {
  for (const assisted of [true, false]) {
    const { core, outputs } = accepted(assisted);
    const offer = outputs.find(({ kind }) => kind === 'put');
    const image = assisted ? IMAGE : undefined;
    t.like(offer, { section: { kind: 'accepted', image } });
    if (!assisted) t.true(ask(core, 'digests').some(({ kind }) => kind === 'closeSession'));
  }
});
