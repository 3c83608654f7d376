/**
 * The right to speak as the roles of a node see it: one guard, one lease and one token file for the
 * life of the agent, whichever role it has. Only with a witness; without one there is none of this,
 * and a role that is told of a loss goes on at once.
 *
 * A session agrees on its heartbeats in its hello: `offer` by the primary, `accept` by the
 * secondary, `meet` by the primary when it has the answer.
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { type Configuration, formatWitness, type SpeechStatus } from '../config/index.js';
import {
  createLeaseMemory,
  GuardClient,
  type GuardNews,
  type GuardStatus,
  HEARTBEAT_KEY_BYTES,
  type HeartbeatSide,
  type LeaseMemory,
  LeaseWriter,
  TokenFile,
} from '../failover/index.js';
import { describeError, type Logger, OperatorError } from '../lib/index.js';
import { OutputDeadline } from '../linux/index.js';
import type { SpeechAnswer, SpeechOffer } from '../replication/index.js';
import type { Session } from '../transport/index.js';
import { GUARD_ANSWERS_MISSED_MAX, SPEECH_STATUS_MS } from './limits.js';

export interface SpeechOptions {
  readonly configuration: Configuration;
  /** What the node starts as. A primary asks the witness at once. */
  readonly role: 'primary' | 'secondary';
  /** Of this process. */
  readonly instance: Buffer;
  readonly log: Logger;
  /** The guard is gone: the lease runs out, and the node can't go on. */
  readonly onFailure: (reason: string) => void;
}

/** What the role that is asked hears. */
export interface SpeechHooks {
  /** Output need not be held any more. */
  onAlone?: (() => void) | undefined;
  /** This node speaks. */
  onTakeOver?: (() => void) | undefined;
  /** What this node holds is old. */
  onStale?: ((reason: string) => void) | undefined;
  /** The other node speaks. */
  onFenced?: ((reason: string) => void) | undefined;
  /** This node speaks, and only the other one reaches the LAN. */
  onLanLost?: (() => void) | undefined;
}

export class Speech {
  /** For every thread that writes to a TAP. */
  readonly lease: LeaseMemory;
  /** The role that has the node sets them, all at once. */
  hooks: SpeechHooks = {};
  readonly #configuration: Configuration;
  readonly #log: Logger;
  readonly #guard: GuardClient;
  readonly #tokens: TokenFile;
  readonly #poll: NodeJS.Timeout;
  #alone = false;
  #fenced: string | undefined;
  #status: GuardStatus | undefined;
  readonly #onFailure: (reason: string) => void;
  /** Questions to the guard since its last answer. */
  #unanswered = 0;

  private constructor(options: SpeechOptions, tokens: TokenFile) {
    const { configuration, role, log } = options;
    this.lease = createLeaseMemory(createDeadline(log)?.fd);
    this.#configuration = configuration;
    this.#log = log;
    this.#tokens = tokens;
    this.#onFailure = options.onFailure;
    const { vm, host } = configuration;
    this.#guard = new GuardClient({
      settings: {
        role,
        promiseUs: configuration.peerTimeoutUs,
        takesRisk: false,
        knownToken: tokens.token,
        heartbeatUs: configuration.heartbeatIntervalUs,
        identity: { vm, host, role, instance: options.instance.toString('hex') },
        witness: configuration.witness,
        witnessTtlUs: configuration.witnessTtlUs,
        witnessTimeoutUs: configuration.witnessTimeoutUs,
        gateway: configuration.gateway,
        lease: this.lease,
      },
      log,
      onNews: (news) => this.#onNews(news),
      onFailure: (error) => options.onFailure(`The guard failed: ${describeError(error)}`),
    });
    this.#poll = setInterval(() => this.#askStatus(), SPEECH_STATUS_MS);
  }

  /** Throws OperatorError for a token file that is not ours. */
  static async start(options: SpeechOptions): Promise<Speech> {
    const { stateDir, vm } = options.configuration;
    return new Speech(options, await TokenFile.open(join(stateDir, `${vm}.token`)));
  }

  /** The other node has gone on alone, and this one has not had a right since. */
  get fenced(): string | undefined {
    return this.#fenced;
  }

  /** The witness has let this node go on alone, and it has not given that up. */
  get isAlone(): boolean {
    return this.#alone;
  }

  get status(): SpeechStatus {
    const status = this.#status;
    return {
      witness: formatWitness(this.#configuration.witness),
      state: status?.permit.kind ?? 'starting',
      granted: status?.isWitnessed ?? false,
      leaseMs: Math.round(Math.min(status?.leaseLeftUs ?? 0, Number.MAX_SAFE_INTEGER) / 1000),
      token: status?.token ?? this.#tokens.token,
      peer: peerText(status),
      gateway: gatewayText(status),
      trouble: status?.witnessTrouble ?? null,
    };
  }

  /** For the hello of a new session. */
  async offer(session: Session): Promise<SpeechOffer> {
    const { token } = await this.#guard.status();
    return {
      key: randomBytes(HEARTBEAT_KEY_BYTES).toString('hex'),
      session: randomBytes(6).readUIntBE(0, 6),
      token,
      ports: await this.#listen(session),
    };
  }

  /**
   * Secondary: a hello is about to be accepted, and then this host's images are nobody's state
   * until the first commit.
   */
  async accept(session: Session, offer: SpeechOffer): Promise<SpeechAnswer> {
    await this.#tokens.save(0);
    const ports = await this.#listen(session);
    this.#connect(session, offer.key, offer.ports, 'accepting');
    return { ports };
  }

  /** Primary: the offer is accepted; heartbeats go to the peer's ports and come from there. */
  meet(session: Session, key: string, ports: readonly number[]): void {
    this.#connect(session, key, ports, 'offering');
  }

  /** Primary, before the secondary gets its first state. Resolves once it counts. */
  protecting(session: number): Promise<void> {
    this.#alone = false;
    return this.#guard.settle({ kind: 'protecting', session });
  }

  /**
   * Secondary: its first commit; what this process holds is as new as what `token` stands for, and
   * its images are when `vouch` says so.
   */
  standBy(session: number, token: number): void {
    this.#guard.input({ kind: 'standby', session, token });
  }

  /**
   * Secondary: whether its images alone have all that clients see from now on. They have not while
   * the SVM executes: what it confirms is in its memory, and a process that starts anew on these
   * images must not pass for as new as the primary. Resolves when that is durable.
   */
  async vouch(token: number | undefined): Promise<void> {
    if (this.#tokens.token !== (token ?? 0)) await this.#tokens.save(token ?? 0);
  }

  /**
   * The guest has been moved here and its source has left for good: this node asks for the right to
   * go on, and is `isAlone` once it has it.
   */
  arrived({ session, token }: SpeechOffer): void {
    this.standBy(session, token);
    this.peerLost({ proof: true });
  }

  /** A session is over. Whoever may go on is told so by its hook. */
  peerLost({ proof }: { proof: boolean }): void {
    if (proof) this.#guard.input({ kind: 'peerGone', reason: 'process gone' });
    else this.#guard.input({ kind: 'peerTrouble', reason: 'connection reset' });
    this.#guard.input({ kind: 'peerLost', proof });
  }

  /** Secondary: what it held is thrown away. */
  discarded(): void {
    this.#guard.input({ kind: 'discarded' });
    this.#guard.input({ kind: 'parted' });
  }

  /** The operator vouches that the peer is silent. */
  force(): void {
    this.#guard.input({ kind: 'peerGone', reason: 'operator' });
    this.#guard.input({ kind: 'force' });
  }

  /** This node gives the guest up. Once it resolves not a frame leaves, guard or no guard. */
  async leave(reason: string): Promise<void> {
    this.#alone = false;
    await this.#guard.settle({ kind: 'leave', reason }).catch(() => undefined);
  }

  async stop(reason: string): Promise<void> {
    clearInterval(this.#poll);
    await this.#guard.stop(reason);
  }

  #connect(session: Session, key: string, ports: readonly number[], side: HeartbeatSide): void {
    const { heartbeatPath } = this.#configuration;
    const addresses = [plainAddress(session.remoteAddress), heartbeatPath?.peer];
    const peers = addresses.flatMap((address, index) => {
      const port = ports[index];
      return address === undefined || port === undefined ? [] : [{ address, port }];
    });
    this.#guard.connect(peers, Buffer.from(key, 'hex'), side);
    this.#guard.input({ kind: 'joined' });
  }

  #listen(session: Session): Promise<number[]> {
    const { heartbeatPath } = this.#configuration;
    const addresses = [plainAddress(session.links.control.localAddress)];
    if (heartbeatPath !== undefined) addresses.push(heartbeatPath.local);
    return this.#guard.listen(addresses);
  }

  #onNews(news: GuardNews): void {
    switch (news.kind) {
      case 'goAlone':
      case 'takeOver':
        this.#fenced = undefined;
        this.#alone = true;
        this.#save(news.token);
        if (news.kind === 'goAlone') this.hooks.onAlone?.();
        else this.hooks.onTakeOver?.();
        return;
      case 'learnt':
        this.#save(news.token);
        return;
      case 'stale':
        this.#log.warn('What this node holds is old', { reason: news.reason });
        this.hooks.onStale?.(news.reason);
        return;
      case 'fenced':
        this.#fenced = news.reason;
        this.#alone = false;
        this.hooks.onFenced?.(news.reason);
        return;
      case 'speak':
        this.#log.info('This node may speak');
        return;
      case 'fallSilent':
        this.#log.warn('This node must not speak', { reason: news.reason });
        return;
      case 'lanLost':
        this.#log.warn('The gateway answers the peer and not this host');
        this.hooks.onLanLost?.();
        return;
      case 'mainHung':
        this.#log.error('The main thread', { hung: news.hung });
        return;
      case 'peer':
        this.#log.info('Heartbeats of the peer', { ...news.view, view: news.view.kind });
        return;
      case 'askWitness':
      case 'releaseWitness':
        return;
    }
  }

  /** Nobody waits: a token that is too old costs a question to the operator, no more. */
  #save(token: number): void {
    this.#tokens.save(token).catch((error: unknown) => {
      this.#log.error('The token can not be saved', { reason: describeError(error) });
    });
  }

  /** A guard that stands still confirms nothing: its peer must not wait for it for ever. */
  #askStatus(): void {
    this.#unanswered += 1;
    if (this.#unanswered > GUARD_ANSWERS_MISSED_MAX) {
      this.#abandonGuard();
      return;
    }
    this.#guard.status().then(
      (status) => {
        this.#unanswered = 0;
        this.#status = status;
      },
      // A guard that is gone is told by `onFailure`.
      () => undefined,
    );
  }

  /** What waits for it goes on; what it left of the lease is over. */
  #abandonGuard(): void {
    clearInterval(this.#poll);
    this.#guard.abandon();
    new LeaseWriter(this.lease).revoke();
    this.#onFailure('The guard does not answer');
  }
}

/** Lasts as long as the process. */
function createDeadline(log: Logger): OutputDeadline | undefined {
  try {
    return OutputDeadline.create();
  } catch (error) {
    log.warn(
      'The kernel does not help to enforce the right to speak: a process that is stopped for ' +
        'longer than it lasts may send some frames when it goes on',
      { reason: describeError(error) },
    );
    return undefined;
  }
}

/**
 * Both hosts must have a witness, or none, and with one they must differ in name. Throws
 * OperatorError with what the operator must know.
 */
export function checkSpeech(
  speech: Speech | undefined,
  peer: { readonly host: string; readonly peerHas: boolean; readonly ownHost: string },
): void {
  if ((speech !== undefined) !== peer.peerHas) {
    const here = peer.peerHas ? 'this host has none' : 'only this host has one';
    const reason = `The witness of both hosts must be the same, and ${here}`;
    throw new OperatorError('COLO_E_PEER_DIFFERS', reason);
  }
  if (speech === undefined || peer.host !== peer.ownHost) return;
  const reason = `Both hosts are called ${peer.host}: the witness must tell them apart, set "host"`;
  throw new OperatorError('COLO_E_PEER_DIFFERS', reason);
}

/** An IPv4 address that a socket of both families shows is one. */
function plainAddress(address: string): string {
  return address.replace(/^::ffff:/, '');
}

function peerText(status: GuardStatus | undefined): string {
  if (status === undefined) return 'unknown';
  const { peer } = status;
  if (!('reason' in peer)) return peer.kind;
  const proved = peer.kind === 'lost' && peer.proof ? ', proved' : '';
  return `${peer.kind} (${peer.reason}${proved})`;
}

function gatewayText(status: GuardStatus | undefined): SpeechStatus['gateway'] {
  if (status?.gatewayReachable === undefined) return null;
  return status.gatewayReachable ? 'reachable' : 'unreachable';
}
