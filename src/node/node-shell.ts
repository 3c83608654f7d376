/**
 * The node of one host: carries out which role comes next, as role-machine.ts decides, and keeps
 * what outlives a role: the listener, the identity by which the peer knows this process, the
 * operator's commands.
 *
 *     start -> ask the peer -> PrimaryRole -> (the guest lives on at the peer) -> SecondaryRole
 *                                  ^----------- (the peer is gone: promotion) --------+
 */
import { randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { readRecords, type Standing, standingOf } from '../blockrep/index.js';
import type {
  Configuration,
  NodeControl,
  NodeExit,
  NodeLogger,
  PrimaryConfiguration,
  RunningNode,
} from '../config/index.js';
import { DestinationRole } from '../destination/index.js';
import { NO_WITNESS_WARNING } from '../failover/index.js';
import {
  type Arrival,
  type Departure,
  type NodeIdentity,
  type NodeRole,
  type Promotion,
  type RoleEnd,
  readMigrationRecord,
  removeMigrationRecord,
  Speech,
  sweepKeptRam,
} from '../guest/index.js';
import { ColoError, describeError } from '../lib/index.js';
import { bootGuest, PrimaryRole } from '../primary/index.js';
import { EpochReserve } from '../replication/index.js';
import { SecondaryRole } from '../secondary/index.js';
import { SourceRole } from '../source/index.js';
import {
  type AcceptDecision,
  INSTANCE_BYTES,
  PeerListener,
  type ProbeAnswer,
  type ProbeResult,
  probePeer,
} from '../transport/index.js';
import { Joining } from './joining-shell.js';
import { JOIN_PAUSE_MS, JOIN_PROBE_TIMEOUT_MS } from './limits.js';
import { type NodeInput, type NodeOutput, RoleMachine } from './role-machine.js';

/** Starts a node in the role that its configuration names, unless the peer runs the guest. */
export async function startNode(
  configuration: Configuration,
  log: NodeLogger,
): Promise<RunningNode> {
  const directories = [configuration.stateDir];
  if (configuration.role === 'secondary') directories.push(configuration.diskDir);
  for (const path of directories) await mkdir(path, { recursive: true, mode: 0o700 });
  const node = new Node(configuration, log);
  await node.begin();
  return node;
}

class Node implements RunningNode {
  readonly finished: Promise<NodeExit>;
  readonly #configuration: Configuration;
  readonly #log: NodeLogger;
  /** Another one for each role: a peer that asks for an older one learns that its role is over. */
  #instance = randomBytes(INSTANCE_BYTES);
  readonly #listener: PeerListener;
  readonly #machine: RoleMachine;
  #port = 0;
  /** What the peer said last. */
  #answer: ProbeResult | undefined;
  /** Undefined without a witness, and until the node knows as what it starts. */
  #speech: Speech | undefined;
  #guardFailure: string | undefined;
  #role: NodeRole | undefined;
  readonly #joining: Joining;
  /** What this host's images say, as long as no peer has been here. */
  #standing: Standing = 'none';
  /** How the last role ended. */
  #end: RoleEnd | undefined;
  /** Nothing becomes of this node any more. */
  #stopping: string | undefined;
  #finish: (exit: NodeExit) => void = () => undefined;

  constructor(configuration: Configuration, log: NodeLogger) {
    this.#configuration = configuration;
    this.#log = log;
    this.#machine = new RoleMachine({ hasWitness: configuration.witness.kind !== 'none' });
    this.finished = new Promise((resolve) => {
      this.#finish = resolve;
    });
    this.#joining = new Joining({ configuration, force: () => this.#force() });
    const instance = (): Buffer => this.#instance;
    this.#listener = new PeerListener({
      log,
      get instance() {
        return instance();
      },
      accept: ({ remoteAddress }) => this.#accept(remoteAddress),
      onSession: (session) => {
        this.#standing = 'none';
        if (this.#role === undefined) session.destroy();
        else this.#role.onSession(session);
      },
      probeAnswer: () => this.#probeAnswer,
    });
  }

  /** The role's, whichever it is now. */
  get control(): NodeControl {
    const role = (): NodeControl => this.#role ?? this.#joining;
    return {
      status: () => role().status(),
      failover: (options) => role().failover(options),
      switchover: () => role().switchover(),
      setPeriod: (period) => role().setPeriod(period),
      setMode: (mode) => role().setMode(mode),
      capture: (options) => role().capture(options),
      checkpoint: () => role().checkpoint(),
      verify: (options) => role().verify(options),
      get migration() {
        return role().migration;
      },
    };
  }

  async begin(): Promise<void> {
    const { listen, role } = this.#configuration;
    this.#port = await this.#listener.listen(listen);
    this.#log.info('Listening', { host: listen.host, port: this.#port });
    await sweepKeptRam(this.#configuration, this.#log);
    if (this.#allowedPeer === undefined) {
      this.#log.warn('Any host that reaches the port may become the primary: set allow-peer');
    }
    try {
      const { stateDir, vm } = this.#configuration;
      this.#standing = standingOf(await readRecords(stateDir, vm));
      if (await hasGivenUp({ stateDir, vm })) this.#standing = 'following';
      await this.#step({ kind: 'started', role, standing: this.#standing });
    } catch (error) {
      await this.#speech?.stop('The node can not start');
      this.#listener.close();
      throw error;
    }
  }

  async stop(reason: string): Promise<void> {
    this.#stopping = reason;
    if (this.#machine.state !== 'left') await this.#step({ kind: 'stopRequested' });
    await this.finished;
  }

  /** Of a node without the guest: what its images say of who had it last. */
  get #probeAnswer(): ProbeAnswer {
    const answer = this.#role?.probeAnswer ?? 'idle';
    return answer === 'idle' && this.#standing !== 'none' ? this.#standing : answer;
  }

  get #identity(): NodeIdentity {
    return { port: this.#port, instance: this.#instance };
  }

  /** The only address that a primary may come from, if that is known. */
  get #allowedPeer(): string | undefined {
    const { allowPeer, peer } = this.#configuration;
    const isAddress = peer !== undefined && /^[\d.]+$|:/.test(peer.host);
    return allowPeer ?? (isAddress ? peer.host : undefined);
  }

  #accept(remoteAddress: string): AcceptDecision {
    const address = remoteAddress.replace(/^::ffff:/, '');
    const allowed = this.#allowedPeer;
    if (allowed !== undefined && address !== allowed) {
      return { ok: false, reason: `${address} is not the host that allow-peer or peer names` };
    }
    return this.#role?.accept(address) ?? { ok: false, reason: 'This node is starting' };
  }

  async #step(input: NodeInput): Promise<void> {
    await this.#carryOut(this.#machine.step(input));
  }

  async #carryOut(first: NodeOutput[]): Promise<void> {
    let outputs = first;
    for (let output = outputs.shift(); output !== undefined; output = outputs.shift()) {
      if (output.kind === 'askWitness') outputs = await this.#askWitness();
      else if (output.kind !== 'ask') await this.#perform(output);
      else if (output.waitsFor === undefined) outputs = await this.#ask();
      else void this.#askAgain(output.waitsFor);
    }
  }

  async #perform(output: Exclude<NodeOutput, { kind: 'ask' | 'askWitness' }>): Promise<void> {
    switch (output.kind) {
      case 'boot':
        // Whoever lets it boot knows where the guest is.
        await removeMigrationRecord(this.#configuration);
        this.#take(await this.#boot(this.#configuration as PrimaryConfiguration));
        return;
      case 'goOn':
        await this.#goOnWith(this.#end as Promotion);
        return;
      case 'beSecondary':
        await this.#speech?.leave('This node is a secondary');
        await this.#startSpeech('secondary');
        this.#take(await this.#beSecondary());
        return;
      case 'depart':
        this.#take(this.#depart(this.#end as Departure));
        return;
      case 'arrive':
        this.#take(await this.#arrive(this.#end as Arrival));
        return;
      case 'stopRole':
        this.#role?.stop(this.#stopping ?? '');
        return;
      case 'leave': {
        const left = this.#end?.kind === 'left' ? this.#end.exit : undefined;
        await this.#leave(left ?? { exitCode: 0, reason: this.#stopping ?? '' });
        return;
      }
      case 'refused':
        this.#log.error('A change of role was refused', { reason: output.reason });
        return;
    }
  }

  /** Asks the other host before a guest is started. */
  async #ask(): Promise<NodeOutput[]> {
    const { peer } = this.#configuration as PrimaryConfiguration;
    const answer = await probePeer({ ...peer, timeoutMs: JOIN_PROBE_TIMEOUT_MS });
    if (answer !== this.#answer) this.#log.info('The peer was asked', { answer });
    this.#answer = answer;
    const joins = this.#machine.state === 'joining';
    return joins ? this.#machine.step({ kind: 'answered', answer }) : [];
  }

  /** The guard goes on asking until it is told something else; here it is looked at once. */
  async #askWitness(): Promise<NodeOutput[]> {
    const isNew = this.#speech === undefined;
    await this.#startSpeech('primary');
    if (isNew) await delay(JOIN_PAUSE_MS);
    if (this.#guardFailure !== undefined) throw new ColoError('COLO_E_GUARD', this.#guardFailure);
    if (this.#machine.state !== 'joining') return [];
    const { isAlone = true, fenced } = this.#speech ?? {};
    const answer = isAlone ? 'granted' : fenced === undefined ? 'none' : 'fenced';
    return this.#machine.step({ kind: 'witnessed', answer });
  }

  /** The operator vouches that nobody else has newer data, and that the peer is silent. */
  async #force(): Promise<void> {
    if (this.#machine.state === 'joining') {
      await this.#startSpeech('primary');
      this.#speech?.force();
    }
    await this.#step({ kind: 'forced' });
  }

  /** Without effect once it has begun, or without a witness. */
  async #startSpeech(role: 'primary' | 'secondary'): Promise<void> {
    const { witness, gateway, heartbeatPath, onPeerLoss } = this.#configuration;
    if (this.#speech !== undefined) return;
    if (witness.kind === 'none') {
      this.#log.warn(NO_WITNESS_WARNING[onPeerLoss]);
      if (gateway !== undefined || heartbeatPath !== undefined) {
        this.#log.warn('Without a witness gateway and heartbeat-path are not used');
      }
      return;
    }
    this.#speech = await Speech.start({
      configuration: this.#configuration,
      role,
      instance: this.#instance,
      log: this.#log,
      onFailure: (reason) => this.#guardFailed(reason),
    });
  }

  #guardFailed(reason: string): void {
    this.#log.error(reason);
    this.#guardFailure = reason;
    void this.stop(reason);
  }

  /** The operator can look at the node, and decide, meanwhile. */
  async #askAgain(waitsFor: string): Promise<void> {
    if (this.#joining.reason !== waitsFor) this.#log.warn(waitsFor);
    this.#joining.reason = waitsFor;
    await delay(JOIN_PAUSE_MS);
    if (this.#machine.state !== 'joining') return;
    try {
      await this.#carryOut(await this.#ask());
    } catch (error) {
      await this.#leave({ exitCode: 1, reason: describeError(error) });
    }
  }

  async #boot(configuration: PrimaryConfiguration): Promise<NodeRole> {
    const { mode, periodUs, minIntervalUs, compareTimeoutUs, verify, peer } = configuration;
    const { reserve, first } = await EpochReserve.open(this.#epochFile);
    const guest = await bootGuest(configuration, this.#log, this.#speech?.lease);
    return new PrimaryRole({
      configuration,
      log: this.#log,
      guest,
      reserve,
      firstEpoch: first,
      policy: { mode, period: periodUs, minIntervalUs, compareTimeoutUs, verify },
      peer,
      identity: this.#identity,
      speech: this.#speech,
    });
  }

  async #beSecondary(): Promise<NodeRole> {
    const reserve = await EpochReserve.watch(this.#epochFile);
    this.#log.info('Waiting for a primary');
    return new SecondaryRole({
      configuration: this.#configuration,
      log: this.#log,
      identity: this.#identity,
      speech: this.#speech,
      reserve,
    });
  }

  #depart(departure: Departure): NodeRole {
    return new SourceRole({
      configuration: this.#configuration,
      log: this.#log,
      departure,
      identity: this.#identity,
      speech: this.#speech,
    });
  }

  async #arrive(arrival: Arrival): Promise<NodeRole> {
    return new DestinationRole({
      configuration: this.#configuration,
      log: this.#log,
      arrival,
      speech: this.#speech,
      reserve: await EpochReserve.watch(this.#epochFile),
    });
  }

  /** The guest that was this node's SVM speaks; this node looks for a secondary of its own. */
  async #goOnWith(promotion: Promotion): Promise<void> {
    const { guest, policy, epoch, downtimeUs } = promotion;
    const { reserve, first } = await EpochReserve.open(this.#epochFile, epoch);
    promotion.release();
    this.#take(
      new PrimaryRole({
        configuration: this.#configuration,
        log: this.#log,
        guest,
        downtimeUs,
        continuedFrom: epoch,
        reserve,
        firstEpoch: first,
        policy,
        peer: this.#configuration.peer ?? promotion.peer,
        identity: this.#identity,
        speech: this.#speech,
      }),
    );
  }

  get #epochFile(): string {
    const { stateDir, vm } = this.#configuration;
    return join(stateDir, `${vm}.epoch`);
  }

  #take(role: NodeRole): void {
    this.#role = role;
    if (this.#stopping !== undefined) role.stop(this.#stopping);
    void role.ended.then((end) => this.#next(end));
  }

  async #next(end: RoleEnd): Promise<void> {
    this.#end = end;
    this.#instance = randomBytes(INSTANCE_BYTES);
    if (end.kind === 'demoted') {
      const { reason } = end;
      this.#log.warn('The guest runs at the peer; this node is its secondary', { reason });
    }
    await this.#step({ kind: 'ended', end: end.kind });
  }

  async #leave(exit: NodeExit): Promise<void> {
    await this.#speech?.stop(exit.reason);
    this.#listener.close();
    const failure = this.#guardFailure;
    this.#finish(failure === undefined ? exit : { exitCode: 1, reason: failure });
  }
}

/** The guest was moved away from here, or nobody knows whether it was. */
async function hasGivenUp(place: { stateDir: string; vm: string }): Promise<boolean> {
  const record = await readMigrationRecord(place);
  return record?.what === 'given-up' || record?.what === 'released';
}
