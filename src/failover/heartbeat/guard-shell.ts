/**
 * The guard's I/O: a datagram socket for each path, the witness, the gateway, the lease. Runs in
 * the thread of guard-thread-shell.ts; without a thread in tests.
 */
import { createSocket, type Socket } from 'node:dgram';
import type { WitnessSetting } from '../../config/index.js';
import { assert, describeError, type Logger } from '../../lib/index.js';
import { bootTimeUs } from '../../linux/index.js';
import { GatewayProbe } from '../gateway/gateway-probe-shell.js';
import { PATHS_MAX } from '../limits.js';
import { type LeaseMemory, LeaseWriter } from '../permit/lease.js';
import type { PermitOptions, PermitState } from '../permit/speech-permit.js';
import { openWitness } from '../witness/open-witness-shell.js';
import type { Witness, WitnessIdentity, WitnessRequest } from '../witness/witness.js';
import { createHeartbeatSeal, type HeartbeatSide } from './heartbeat-seal-shell.js';
import { decodeHeartbeat, encodeHeartbeat, type HeartbeatSeal } from './heartbeat-wire.js';
import type { PeerView } from './peer-monitor.js';
import { type GuardInput, type GuardOutput, SpeechGuard } from './speech-guard.js';

/** What a guard is made from; survives the way into a thread. */
export interface GuardSettings extends Omit<PermitOptions, 'hasWitness' | 'startUs'> {
  readonly heartbeatUs: number;
  readonly identity: WitnessIdentity;
  readonly witness: WitnessSetting;
  readonly witnessTtlUs: number;
  readonly witnessTimeoutUs: number;
  readonly gateway: string | undefined;
  /** Of `createLeaseMemory`; shared with every TAP's thread. */
  readonly lease: LeaseMemory;
  /** Of `createAliveMemory`. */
  readonly alive: SharedArrayBuffer;
}

/** Where the peer sends from and is sent to, one for each of our own addresses, in their order. */
export interface HeartbeatPeer {
  readonly address: string;
  readonly port: number;
}

/** What the main thread is told; `send` and `extend` are the guard's own business. */
export type GuardNews = Exclude<GuardOutput, { readonly kind: 'send' | 'extend' }>;

/** For `colo status`. */
export interface GuardStatus {
  readonly permit: PermitState;
  readonly peer: PeerView;
  readonly token: number;
  /** What is left of the right to speak. */
  readonly leaseLeftUs: number;
  readonly isWitnessed: boolean;
  /** What the witness last said that was no grant. */
  readonly witnessTrouble: string | undefined;
  readonly gatewayReachable: boolean | undefined;
  /** Datagrams that were no heartbeats of the peer. */
  readonly strangeDatagrams: number;
}

/** The memory in which the main thread gives its sign of life. */
export function createAliveMemory(): SharedArrayBuffer {
  const memory = new SharedArrayBuffer(BigInt64Array.BYTES_PER_ELEMENT);
  stampAlive(memory);
  return memory;
}

/** From the main thread, at least every heartbeat interval. */
export function stampAlive(memory: SharedArrayBuffer): void {
  Atomics.store(new BigInt64Array(memory), 0, BigInt(bootTimeUs()));
}

export class GuardShell {
  readonly #guard: SpeechGuard;
  readonly #log: Logger;
  readonly #tell: (news: GuardNews) => void;
  readonly #lease: LeaseWriter;
  readonly #alive: BigInt64Array;
  readonly #witness: Witness | undefined;
  readonly #gateway: GatewayProbe | undefined;
  #gatewayReachable: boolean | undefined;
  #witnessTrouble: string | undefined;
  #witnessWork: Promise<void> = Promise.resolve();
  /** Of the sockets, once all of them are open. */
  #addresses: readonly string[] = [];
  #sockets: Socket[] = [];
  #peers: readonly HeartbeatPeer[] = [];
  /** Undefined before the first session. */
  #seal: HeartbeatSeal | undefined;
  #strange = 0;
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;

  /** Begins at once: a primary asks for its right to speak. */
  constructor(settings: GuardSettings, log: Logger, tell: (news: GuardNews) => void) {
    const { identity, witness, witnessTtlUs, witnessTimeoutUs, gateway } = settings;
    this.#log = log;
    this.#tell = tell;
    this.#lease = new LeaseWriter(settings.lease);
    this.#alive = new BigInt64Array(settings.alive);
    this.#witness = openWitness({
      identity,
      setting: witness,
      ttlUs: witnessTtlUs,
      timeoutUs: witnessTimeoutUs,
    });
    const hasWitness = this.#witness !== undefined;
    this.#guard = new SpeechGuard({ ...settings, hasWitness, startUs: bootTimeUs() });
    if (gateway !== undefined) {
      this.#gatewayReachable = false;
      this.input({ kind: 'lan', reachable: false });
      this.#gateway = new GatewayProbe({
        address: gateway,
        log,
        onChange: (reachable) => {
          this.#gatewayReachable = reachable;
          log.info('The gateway', { address: gateway, reachable });
          this.input({ kind: 'lan', reachable });
        },
      });
    }
    this.#tick();
  }

  /**
   * One socket for each local address; the ports are for the peer to know. The next session asks
   * again: then they stay, or are replaced if its addresses are others. One call at a time.
   */
  async listen(addresses: readonly string[]): Promise<number[]> {
    assert(addresses.length <= PATHS_MAX, `${addresses.length} paths`);
    if (addresses.join() !== this.#addresses.join()) {
      this.#addresses = [];
      for (const socket of this.#sockets.splice(0)) socket.close();
      for (const [index, address] of addresses.entries()) {
        this.#sockets.push(await this.#bind(address, index));
      }
      this.#addresses = addresses;
    }
    return this.#sockets.map((socket) => socket.address().port);
  }

  /** From now on heartbeats go to these addresses, and come from them, sealed with `secret`. */
  connect(peers: readonly HeartbeatPeer[], secret: Uint8Array, side: HeartbeatSide): void {
    this.#peers = peers;
    this.#seal = createHeartbeatSeal(secret, side);
  }

  input(input: GuardInput): void {
    if (this.#stopped) return;
    for (const output of this.#guard.step(input, bootTimeUs())) this.#perform(output);
    this.#schedule();
  }

  get status(): GuardStatus {
    const { state, peer, token, untilUs, isWitnessed } = this.#guard;
    return {
      permit: state,
      peer,
      token,
      leaseLeftUs: Math.max(0, untilUs - bootTimeUs()),
      isWitnessed,
      witnessTrouble: this.#witnessTrouble,
      gatewayReachable: this.#gatewayReachable,
      strangeDatagrams: this.#strange,
    };
  }

  /** Falls silent, gives the grant back, and ends. Idempotent. */
  async stop(reason: string): Promise<void> {
    this.input({ kind: 'leave', reason });
    this.#stopped = true;
    this.#lease.revoke();
    clearTimeout(this.#timer);
    this.#gateway?.stop();
    for (const socket of this.#sockets.splice(0)) socket.close();
    await this.#witnessWork;
    this.#witness?.close();
  }

  #tick(): void {
    this.input({ kind: 'tick', mainAliveAtUs: Number(Atomics.load(this.#alive, 0)) });
  }

  #schedule(): void {
    clearTimeout(this.#timer);
    const waitMs = Math.ceil((this.#guard.deadlineUs() - bootTimeUs()) / 1000);
    this.#timer = setTimeout(() => this.#tick(), Math.max(0, waitMs));
  }

  #perform(output: GuardOutput): void {
    switch (output.kind) {
      case 'send':
        if (this.#seal !== undefined) this.#send(encodeHeartbeat(output.message, this.#seal));
        return;
      case 'extend':
        this.#lease.extend(output.untilUs);
        return;
      case 'speak':
        this.#lease.arm(output.untilUs);
        break;
      case 'fallSilent':
        this.#lease.revoke();
        break;
      case 'askWitness':
        this.#enqueue((witness) => this.#ask(witness, output.request));
        return;
      case 'releaseWitness':
        this.#enqueue((witness) => witness.release());
        return;
      default:
        break;
    }
    this.#tell(output);
  }

  /** One after the other: a release must not overtake what it was before. */
  #enqueue(work: (witness: Witness) => Promise<void>): void {
    const witness = this.#witness;
    if (witness !== undefined) this.#witnessWork = this.#witnessWork.then(() => work(witness));
  }

  async #ask(witness: Witness, request: WitnessRequest): Promise<void> {
    const answer = await witness.ask(request);
    const trouble =
      answer.kind === 'granted'
        ? undefined
        : answer.kind === 'denied'
          ? `${answer.holder} ${answer.stale ? 'has gone alone since' : 'has the grant'}`
          : answer.reason;
    if (trouble !== undefined && trouble !== this.#witnessTrouble) {
      this.#log.warn('No grant of the witness', { witness: witness.name, reason: trouble });
    }
    this.#witnessTrouble = trouble;
    this.input({ kind: 'answered', answer });
  }

  #bind(address: string, index: number): Promise<Socket> {
    return new Promise((resolve, reject) => {
      const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
      socket.once('error', reject);
      socket.bind({ address, port: 0, exclusive: true }, () => {
        socket.off('error', reject);
        // One path's trouble is what the other one is for; silence tells of it.
        socket.on('error', (error) => {
          this.#log.debug('Heartbeat path', { address, reason: describeError(error) });
        });
        socket.on('message', (bytes, from) => this.#receive(bytes, from.address, index));
        resolve(socket);
      });
    });
  }

  #receive(bytes: Buffer, from: string, index: number): void {
    const seal = from === this.#peers[index]?.address ? this.#seal : undefined;
    const message = seal === undefined ? undefined : decodeHeartbeat(bytes, seal);
    if (message === undefined) this.#strange += 1;
    else this.input({ kind: 'arrived', message });
  }

  #send(bytes: Buffer): void {
    for (const [index, socket] of this.#sockets.entries()) {
      const peer = this.#peers[index];
      // A message that can't leave is a message lost: no route, no buffer, nobody there.
      if (peer !== undefined) socket.send(bytes, peer.port, peer.address, () => {});
    }
  }
}
