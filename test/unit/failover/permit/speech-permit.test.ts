/** Single steps; what they come to together is in test/property/failover. */
import test from 'ava';
import {
  ANY_TOKEN,
  leaseUs,
  type PermitInput,
  type PermitOptions,
  SpeechPermit,
  UNLIMITED_US,
} from '../../../../src/failover/index.js';

const P = 500_000;
const TTL = 5_000_000;
const S = 1_000_000;

function permit(options: Partial<PermitOptions> = {}): SpeechPermit {
  return new SpeechPermit({
    role: 'primary',
    promiseUs: P,
    hasWitness: true,
    takesRisk: false,
    knownToken: 7,
    startUs: 0,
    ...options,
  });
}

const granted = (token: number, askedAtUs: number): PermitInput => ({
  kind: 'answered',
  answer: { kind: 'granted', token, askedAtUs, ttlUs: TTL },
});
const unreachable: PermitInput = {
  kind: 'answered',
  answer: { kind: 'unreachable', reason: 'none' },
};
const askAlone = { kind: 'askWitness', request: { purpose: 'alone', knownToken: 7 } } as const;
const askInsure = { kind: 'askWitness', request: { purpose: 'insure', knownToken: 7 } } as const;

/** A primary whose pair is protected, confirmed at 2 s. */
function protectedSpeaker(): SpeechPermit {
  const p = permit();
  p.step({ kind: 'tick' }, 0);
  p.step(granted(7, 0), 1000);
  p.step({ kind: 'tick' }, P);
  p.step({ kind: 'protecting', session: 3 }, S);
  for (let nowUs = S; nowUs <= 2 * S; nowUs += 50_000) {
    p.step({ kind: 'confirmed', sentAtUs: nowUs - 1000, token: 7 }, nowUs);
  }
  return p;
}

/** A secondary that could take over, and has promised until 2.5 s. */
function standby(options: Partial<PermitOptions> = {}): SpeechPermit {
  const p = permit({ role: 'secondary', knownToken: 0, ...options });
  p.step({ kind: 'standby', session: 3, token: 7 }, S);
  p.step({ kind: 'heard', asks: true, token: 7, session: 3 }, 2 * S);
  return p;
}

test('a primary asks to be alone, and waits for what its last process may have promised', (t) => {
  const p = permit();
  t.deepEqual(p.step({ kind: 'tick' }, 0), [askAlone]);
  t.deepEqual(p.step(granted(8, 0), 1000), [{ kind: 'goAlone', token: 8 }]);
  t.is(p.deadlineUs(), P);
  t.deepEqual(p.step({ kind: 'tick' }, P), [{ kind: 'speak', untilUs: leaseUs(TTL) }]);
  t.is(p.state.kind, 'speaking');
});

test('without the witness a peer that confirms is enough to speak, not to go alone', (t) => {
  const p = permit();
  p.step({ kind: 'tick' }, 0);
  p.step(unreachable, S);
  t.deepEqual(p.step({ kind: 'confirmed', sentAtUs: S, token: 7 }, S + 500), [
    { kind: 'speak', untilUs: S + leaseUs(P) },
  ]);
});

test('a healthy pair gives the grant back and asks for none', (t) => {
  const p = protectedSpeaker();
  t.is(p.isWitnessed, false);
  t.is(p.state.kind, 'speaking');
  t.deepEqual(p.step({ kind: 'confirmed', sentAtUs: 2 * S, token: 7 }, 2 * S + 1000), [
    { kind: 'extend', untilUs: 2 * S + leaseUs(P) },
  ]);
});

test('confirmations that run late are insured, and the lease ends without both', (t) => {
  const p = protectedSpeaker();
  const endUs = p.untilUs;
  t.deepEqual(p.step({ kind: 'tick' }, endUs - leaseUs(P) / 2), [askInsure]);
  t.deepEqual(p.step(unreachable, endUs - 1), []);
  t.like(p.step({ kind: 'tick' }, endUs), [{ kind: 'fallSilent' }]);
  t.is(p.state.kind, 'muted');
  // Nobody has gone alone in between, so the next confirmation is a right again.
  t.like(p.step({ kind: 'confirmed', sentAtUs: endUs, token: 7 }, endUs + 1), [{ kind: 'speak' }]);
});

test('soon after the grant was given back, an insurance is asked for at once', (t) => {
  const p = permit();
  p.step({ kind: 'tick' }, 0);
  p.step(granted(7, 0), 1000);
  p.step({ kind: 'tick' }, P);
  p.step({ kind: 'protecting', session: 3 }, P);
  // Long before the grant would have been renewed.
  for (let nowUs = P; nowUs <= S; nowUs += 50_000) {
    p.step({ kind: 'confirmed', sentAtUs: nowUs - 1000, token: 7 }, nowUs);
  }
  t.false(p.isWitnessed);
  const askAtUs = p.untilUs - leaseUs(P) / 2;
  t.true(askAtUs < TTL / 3);
  t.is(p.deadlineUs(), askAtUs);
  t.deepEqual(p.step({ kind: 'tick' }, askAtUs), [askInsure]);
});

test('a grant that was asked for before the loss does not let go alone', (t) => {
  const p = protectedSpeaker();
  const lateUs = p.untilUs - leaseUs(P) / 2;
  t.deepEqual(p.step({ kind: 'tick' }, lateUs), [askInsure]);
  t.deepEqual(p.step({ kind: 'peerLost', proof: true }, lateUs + 1), []);
  const outputs = p.step(granted(8, lateUs), lateUs + 2);
  t.like(outputs, [{ kind: 'extend' }, askAlone]);
  t.like(p.step(granted(9, lateUs + 2), lateUs + 3), [{ kind: 'goAlone', token: 9 }]);
});

test('a peer that has gone alone silences the other at once', (t) => {
  const p = protectedSpeaker();
  const outputs = p.step({ kind: 'heard', asks: true, token: 8, session: undefined }, 2 * S + 1);
  t.deepEqual(
    outputs.map(({ kind }) => kind),
    ['fallSilent', 'fenced', 'confirm'],
  );
  t.is(p.untilUs, 0);
});

test('a standby promises, and waits for the end of its promise', (t) => {
  const p = standby();
  const lostUs = 2 * S + P / 2;
  t.deepEqual(p.step({ kind: 'peerLost', proof: false }, lostUs), [askInsure]);
  p.step(granted(8, lostUs), lostUs + 1);
  // Decided: no more promises.
  t.deepEqual(p.step({ kind: 'heard', asks: true, token: 7, session: 3 }, lostUs + 2), []);
  t.is(p.deadlineUs(), 2 * S + P);
  t.deepEqual(p.step({ kind: 'tick' }, 2 * S + P), [askAlone]);
  t.deepEqual(p.step(granted(9, 2 * S + P), 2 * S + P + 1), [
    { kind: 'takeOver', token: 9 },
    { kind: 'speak', untilUs: 2 * S + P + leaseUs(TTL) },
  ]);
});

test('a standby whose session broke leaves the grant to a speaker that it still hears', (t) => {
  const p = standby();
  const lostUs = 2 * S + 1;
  t.deepEqual(p.step({ kind: 'peerLost', proof: false }, lostUs), []);
  const beat = { kind: 'heard', asks: true, token: 7, session: 3 } as const;
  for (let nowUs = lostUs; nowUs < lostUs + 2 * P; nowUs += P / 5) {
    t.deepEqual(p.step(beat, nowUs), [{ kind: 'confirm' }]);
  }
  // It went alone meanwhile; or it can't.
  const alone = { kind: 'heard', asks: true, token: 8, session: undefined } as const;
  t.like(p.step(alone, lostUs + 2 * P), [{ kind: 'stale' }, { kind: 'confirm' }]);
  const other = standby();
  other.step({ kind: 'peerLost', proof: false }, lostUs);
  for (let nowUs = lostUs; nowUs < lostUs + 2.5 * P; nowUs += P / 5) other.step(beat, nowUs);
  t.is(other.deadlineUs(), lostUs + 2.5 * P);
  t.deepEqual(other.step({ kind: 'tick' }, lostUs + 2.5 * P), [askInsure]);
});

test('a speaker that falls silent is not waited for any longer, and one that is gone not at all', (t) => {
  const p = standby();
  t.deepEqual(p.step({ kind: 'peerLost', proof: false }, 2 * S + 1), []);
  t.is(p.deadlineUs(), 2 * S + P / 2);
  t.deepEqual(p.step({ kind: 'tick' }, 2 * S + P / 2), [askInsure]);
  const other = standby();
  other.step({ kind: 'peerLost', proof: false }, 2 * S + 1);
  t.deepEqual(other.step({ kind: 'peerLost', proof: true }, 2 * S + 2), [askAlone]);
});

test('proof that the peer is silent ends the promise, but the witness is asked all the same', (t) => {
  const p = standby();
  t.deepEqual(p.step({ kind: 'peerLost', proof: true }, 2 * S + 1), [askAlone]);
  t.deepEqual(p.step(unreachable, 2 * S + 2), []);
  t.is(p.state.kind, 'claiming');
});

test('a host that does not reach its own LAN does not ask', (t) => {
  const p = standby();
  p.step({ kind: 'lan', reachable: false }, 2 * S);
  t.deepEqual(p.step({ kind: 'peerLost', proof: true }, 2 * S + 1), []);
  t.deepEqual(p.step({ kind: 'lan', reachable: true }, 2 * S + 2), [askAlone]);
});

test('a standby whose speaker has gone alone is stale', (t) => {
  const p = standby();
  t.like(p.step({ kind: 'heard', asks: true, token: 8, session: undefined }, 2 * S), [
    { kind: 'stale' },
    { kind: 'confirm' },
  ]);
  t.is(p.state.kind, 'bystander');
  const asked = standby();
  asked.step({ kind: 'peerLost', proof: true }, 2 * S);
  const answer = { kind: 'denied', holder: 'a', stale: true } as const;
  t.like(asked.step({ kind: 'answered', answer }, 2 * S + 1), [{ kind: 'stale' }]);
});

test('a token that the session tells is learnt, and no reason to give up', (t) => {
  const p = standby();
  t.deepEqual(p.step({ kind: 'heard', asks: true, token: 9, session: 3 }, 2 * S), [
    { kind: 'confirm' },
  ]);
  t.is(p.token, 9);
});

test('who knows a newer token confirms no older one', (t) => {
  const p = permit({ role: 'secondary', knownToken: 8 });
  t.deepEqual(p.step({ kind: 'heard', asks: true, token: 7, session: undefined }, S), []);
});

test('an operator may vouch for the silence of the peer', (t) => {
  const p = standby();
  p.step({ kind: 'peerLost', proof: false }, 2 * S);
  p.step(unreachable, 2 * S + 1);
  t.deepEqual(p.step({ kind: 'force' }, 2 * S + 2), [
    { kind: 'takeOver', token: 7 },
    { kind: 'speak', untilUs: UNLIMITED_US },
    { kind: 'askWitness', request: { purpose: 'alone', knownToken: ANY_TOKEN } },
  ]);
});

test('an operator may do so for a speaker that is muted, and it goes alone', (t) => {
  const p = protectedSpeaker();
  const endUs = p.untilUs;
  p.step({ kind: 'tick' }, endUs);
  p.step(unreachable, endUs + 1);
  const outputs = p.step({ kind: 'force' }, endUs + 2);
  t.like(outputs, [
    { kind: 'speak', untilUs: UNLIMITED_US },
    { kind: 'goAlone', token: 7 },
  ]);
  t.like(outputs[2], { request: { purpose: 'alone', knownToken: ANY_TOKEN } });
  // Once the witness knows, its grant is the right.
  t.like(p.step(granted(9, endUs + 2), endUs + 3), [
    { kind: 'goAlone', token: 9 },
    { kind: 'extend', untilUs: endUs + 2 + leaseUs(TTL) },
  ]);
});

test('what an operator vouches for ends with a confirmation of the peer, but of no older one', (t) => {
  const p = standby();
  p.step({ kind: 'force' }, 3 * S);
  t.like(p.step({ kind: 'confirmed', sentAtUs: 3 * S - 1, token: 7 }, 3 * S + 1), [
    { kind: 'extend', untilUs: UNLIMITED_US },
  ]);
  t.like(p.step({ kind: 'confirmed', sentAtUs: 3 * S + 2, token: 7 }, 3 * S + 3), [
    { kind: 'extend', untilUs: 3 * S + 2 + leaseUs(P) },
  ]);
});

test('with no witness a primary speaks for ever, and a standby needs proof, leave or an operator', (t) => {
  const p = permit({ hasWitness: false });
  t.deepEqual(p.step({ kind: 'tick' }, 0), [
    { kind: 'speak', untilUs: UNLIMITED_US },
    { kind: 'goAlone', token: 7 },
  ]);
  const none = { hasWitness: false };
  const taken = ['takeOver', 'speak'];
  const kinds = (q: SpeechPermit, input: PermitInput) =>
    q.step(input, 3 * S).map(({ kind }) => kind);
  t.deepEqual(kinds(standby(none), { kind: 'peerLost', proof: false }), []);
  t.deepEqual(kinds(standby(none), { kind: 'peerLost', proof: true }), taken);
  const risks = standby({ ...none, takesRisk: true });
  t.deepEqual(kinds(risks, { kind: 'peerLost', proof: false }), taken);
  t.deepEqual(kinds(standby(none), { kind: 'force' }), taken);
});

test('who leaves falls silent first, gives the grant back, and begins nothing again', (t) => {
  const p = permit();
  p.step({ kind: 'tick' }, 0);
  p.step(granted(8, 0), 1000);
  p.step({ kind: 'tick' }, P);
  t.deepEqual(p.step({ kind: 'leave', reason: 'Stopped' }, P + 1), [
    { kind: 'fallSilent', reason: 'Stopped' },
    { kind: 'releaseWitness' },
  ]);
  t.deepEqual(p.step({ kind: 'confirmed', sentAtUs: P + 1, token: 8 }, P + 2), []);
  t.is(p.deadlineUs(), undefined);
});
