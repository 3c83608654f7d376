/** The right to speak of two agents over loopback, with a witness in a shared folder. */
import { EventEmitter, once } from 'node:events';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { checkSpeech, Speech } from '../../../src/guest/index.js';
import type { Session } from '../../../src/transport/index.js';
import { resolvePrimary, resolveSecondary } from '../../support/configuration.js';
import { temporaryFolder } from '../../support/temporary.js';

/** As much of a session as the right to speak needs. */
const LOOPBACK = {
  remoteAddress: '::ffff:127.0.0.1',
  links: { control: { localAddress: '127.0.0.1' } },
} as unknown as Session;
const POLL_MS = 20;

class Side {
  readonly speech: Speech;
  readonly #stateDir: string;
  readonly #told = new EventEmitter();
  readonly #heard: string[] = [];

  private constructor(t: ExecutionContext, speech: Speech, stateDir: string) {
    this.speech = speech;
    this.#stateDir = stateDir;
    t.teardown(() => speech.stop('The test is over'));
    const hear = (what: string) => () => {
      this.#heard.push(what);
      this.#told.emit('told');
    };
    speech.hooks = {
      onAlone: hear('alone'),
      onTakeOver: hear('takeOver'),
      onStale: hear('stale'),
      onFenced: hear('fenced'),
    };
  }

  static async start(
    t: ExecutionContext,
    role: 'primary' | 'secondary',
    folder: string,
  ): Promise<Side> {
    const stateDir = join(folder, role);
    mkdirSync(stateDir);
    const common = ['--vm', 'web', '--host', role, '--state-dir', stateDir];
    const argv = [...common, '--witness', `file://${folder}`, '--witness-ttl', '2s'];
    const configuration =
      role === 'primary'
        ? resolvePrimary([...argv, '--peer', '127.0.0.1', '--kernel', '/k'])
        : resolveSecondary(argv);
    const speech = await Speech.start({
      configuration,
      role,
      instance: Buffer.from(role),
      log: { debug() {}, info() {}, warn() {}, error() {} },
      onFailure: (reason) => t.fail(reason),
    });
    return new Side(t, speech, stateDir);
  }

  async until(what: string): Promise<void> {
    while (!this.#heard.includes(what)) await once(this.#told, 'told');
  }

  /** Resolves once it is saved; ava's time-out is the deadline. */
  async savedToken(wanted: (token: number) => boolean): Promise<number> {
    for (;;) {
      const token = readToken(join(this.#stateDir, 'web.token'));
      if (token !== undefined && wanted(token)) return token;
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }
}

function readToken(path: string): number | undefined {
  try {
    return Number(readFileSync(path, 'utf8'));
  } catch {
    return undefined;
  }
}

/** A primary that the witness has let go alone, and a secondary that has accepted its hello. */
async function metPair(t: ExecutionContext) {
  const folder = temporaryFolder(t);
  const a = await Side.start(t, 'primary', folder);
  await a.until('alone');
  const b = await Side.start(t, 'secondary', folder);
  const offer = await a.speech.offer(LOOPBACK);
  const answer = await b.speech.accept(LOOPBACK, offer);
  a.speech.meet(LOOPBACK, offer.key, answer.ports);
  return { a, b, offer };
}

test('a token is saved for images that have everything, and who takes over has a newer one', async (t) => {
  const { a, b, offer } = await metPair(t);
  t.true(a.speech.isAlone);
  t.is(await b.savedToken(() => true), 0);
  await a.speech.protecting(offer.session);
  t.false(a.speech.isAlone);
  b.speech.standBy(offer.session, offer.token);
  await b.speech.vouch(offer.token);
  t.is(await b.savedToken(() => true), offer.token);
  // Its guest is about to execute: what that confirms is in memory only.
  await b.speech.vouch(undefined);
  t.is(await b.savedToken(() => true), 0);
  await a.speech.leave('The guest goes to the peer');
  b.speech.peerLost({ proof: true });
  await b.until('takeOver');
  t.true((await b.savedToken((token) => token > offer.token)) > offer.token);
});

test('what a secondary holds is old once its primary has gone alone', async (t) => {
  const { a, b, offer } = await metPair(t);
  await a.speech.protecting(offer.session);
  b.speech.standBy(offer.session, offer.token);
  a.speech.peerLost({ proof: false });
  await b.until('stale');
  t.is(a.speech.fenced, undefined);
});

test('the ports stay from session to session', async (t) => {
  const { a, offer } = await metPair(t);
  const next = await a.speech.offer(LOOPBACK);
  t.deepEqual(next.ports, offer.ports);
  t.not(next.key, offer.key);
  t.not(next.session, offer.session);
});

test('hosts of one name, or of which only one has a witness, do not join', async (t) => {
  const { speech } = await Side.start(t, 'secondary', temporaryFolder(t));
  const refused = { code: 'COLO_E_PEER_DIFFERS' };
  const check = (own: Speech | undefined, host: string, peerHas: boolean) => () =>
    checkSpeech(own, { host, peerHas, ownHost: 'here' });
  t.throws(check(speech, 'here', true), refused);
  t.throws(check(speech, 'there', false), refused);
  t.throws(check(undefined, 'there', true), refused);
  t.notThrows(check(speech, 'there', true));
  t.notThrows(check(undefined, 'here', false));
});
