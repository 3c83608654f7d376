/**
 * Networks of one guest on host after host, with real TAPs and roles: each test runs a scenario of
 * network-child.ts in a network namespace that lives as long as that process.
 */
import { NUDGE_ERRORS, TIMESTAMP_MARGIN } from '../../../src/proxy/limits.js';
import { observeInNamespace, testInNamespaces } from '../../support/namespace.js';

const test = testInNamespaces('guest network');
const CHILD = new URL('./network-child.js', import.meta.url);

function observe(scenario: string): Promise<Record<string, unknown>> {
  return observeInNamespace(CHILD, scenario);
}

const [A, B] = [0xffff_ff00, 0x1000_0000];

test('clients see one space of numbers, guests their own, on the wire of three hosts', async (t) => {
  const echoed = { value: 91, seq: 5004, ack: B + 6, echo: 300_001, text: 'two' };
  const margin = TIMESTAMP_MARGIN;
  t.deepEqual(await observe('generations'), {
    opened: { seq: A, ack: 5001, value: 700_000, echo: 90, text: '' },
    // One request for two guests: each hears its own numbers.
    first: {
      a: { seq: 5001, ack: A + 1, value: 91, echo: 700_000, text: 'one' },
      b: { seq: 5001, ack: B + 1, value: 91, echo: 300_000, text: 'one' },
    },
    again: { seq: A, ack: 5001, value: 700_000 + margin, echo: 90, text: '' },
    afterOne: { seq: A + 1, ack: 5004, value: 700_001 + margin, echo: 90, text: 'first' },
    // Mirrored is what the guest hears, not what the client says.
    second: { b: echoed, c: echoed },
    confirmed: { seq: A + 6, ack: 5007, value: 700_006 + margin, echo: 90, text: 'second' },
    whileHeld: 4,
    // Translated once on its way out of the gate.
    released: { seq: A + 12, ack: 5007, value: 700_012 + margin, echo: 90, text: 'third' },
    afterTwo: { seq: A + 17, ack: 5007, value: 700_017 + 2 * margin, echo: 90, text: 'fourth' },
    last: { seq: 5007, ack: B + 23, value: 91, echo: 300_017, text: 'six' },
    // The guests agree in their own numbers.
    asked: [],
    clientFrames: 6,
    // The guest gets this in its own numbers, the client in the client's.
    wokenOnce: {
      guest: [{ seq: 5003, ack: B + 1, value: 91, echo: 300_000, text: '' }],
      quoted: new Array(NUDGE_ERRORS).fill(5004),
    },
    wokenTwice: {
      guest: [{ seq: 5006, ack: B + 6, value: 91, echo: 300_001, text: '' }],
      quoted: new Array(NUDGE_ERRORS).fill(5007),
    },
  });
});

test('a new connection waits until the other host knows it, and nothing else does', async (t) => {
  t.deepEqual(await observe('openings'), {
    meanwhile: ['other'],
    // What both hosts know by then is of an epoch that is over: it waits for the commit.
    atEdge: 1,
    afterEdge: 1,
    tooMany: 'The secondary knows 1 connections of 0, and knew 0',
    afterSession: 1,
    texts: ['other', ...Array.from({ length: 3 }, () => `SYN ${A}`)],
    asked: [],
  });
});

test('a host that takes over knows every new connection that a client has heard of', async (t) => {
  t.deepEqual(await observe('unknown'), {
    told: [{ kind: 'flowsKnown', epoch: 2, nic: 0, count: 2 }],
    afterwards: 0,
    again: [A, A, B],
    seen: [B, A],
  });
});

test('threads change their role in place, and links go from session to session', async (t) => {
  const raised = 501 + TIMESTAMP_MARGIN;
  const two = { seq: 5004, ack: A + 1, value: 91, echo: 400, text: 'two' };
  t.deepEqual(await observe('threads'), {
    toA: 'one',
    refused: 'This guest is a target',
    toB: 'one',
    raised,
    both: [two, two],
    confirmed: raised + 10,
    afterTwo: raised + 20 + TIMESTAMP_MARGIN,
  });
});

test('a promoted guest gets what was mirrored for it, speaks, and can be silenced', async (t) => {
  t.deepEqual(await observe('rest'), {
    refused: 'This guest is a target',
    early: 'This guest is a source',
    before: 0,
    delivered: 'mirrored',
    spoken: 'loud',
    heard: 1,
  });
});
