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
import { setTimeout as delay, setImmediate } from 'node:timers/promises';
import { readRecords, type Standing, standingOf } from '../blockrep/index.js';
import type {
  Address,
  CommandResult,
  Configuration,
  NodeControl,
  NodeExit,
  NodeLogger,
  NodeStatus,
  PrimaryConfiguration,
  RoleControl,
  RoleView,
  RunningNode,
} from '../config/index.js';
import { DestinationRole } from '../destination/index.js';
import { NO_WITNESS_WARNING } from '../failover/index.js';
import {
  type Arrival,
  type Departure,
  type Guest,
  hasDeparted,
  LeftGuestRam,
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
import { EpochReserve, type Policy } from '../replication/index.js';
import { bootSaved, readMachine, type SavedMachine, SecondaryRole } from '../secondary/index.js';
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
import { NodeEvents } from './node-events-shell.js';
import { type NodeInput, type NodeOutput, RoleMachine } from './role-machine.js';
import { NodeSecurity } from './security-shell.js';

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

/** Nobody was there, or nothing that makes sense. */
const NO_ANSWER: readonly ProbeResult[] = ['refused', 'unreachable', 'silent'];

/** Another guest than the one that was here last runs here, or may. */
const USES_GUEST: readonly NodeOutput['kind'][] = ['boot', 'goOn', 'arrive', 'leave'];

class Node implements RunningNode {
  readonly finished: Promise<NodeExit>;
  readonly #configuration: Configuration;
  readonly #log: NodeLogger;
  /** Another one for each role: a peer that asks for an older one learns that its role is over. */
  #instance = randomBytes(INSTANCE_BYTES);
  readonly #security: NodeSecurity;
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
  readonly #events: NodeEvents;
  readonly #leftRam: LeftGuestRam;
  /** What this host's images say, as long as no peer has been here. */
  #standing: Standing = 'none';
  /** Of a secondary: what it can boot the guest from. */
  #saved: SavedMachine | undefined;
  /** An operator vouches for the boot. */
  #isForced = false;
  /** Questions of the peer, answered. */
  #told = 0;
  /** How the last role ended. */
  #end: RoleEnd | undefined;
  /** Nothing becomes of this node any more. */
  #stopping: string | undefined;
  #finish: (exit: NodeExit) => void = () => undefined;
  /** Nothing of the node is left but its end. */
  readonly #ending: Promise<void>;
  #tellEnding: () => void = () => undefined;

  constructor(configuration: Configuration, log: NodeLogger) {
    this.#configuration = configuration;
    this.#log = log;
    this.#security = new NodeSecurity(configuration, log);
    this.#leftRam = new LeftGuestRam(configuration, log);
    this.#machine = new RoleMachine({ hasWitness: configuration.witness.kind !== 'none' });
    this.finished = new Promise((resolve) => {
      this.#finish = resolve;
    });
    this.#ending = new Promise((resolve) => {
      this.#tellEnding = resolve;
    });
    this.#joining = new Joining({ configuration, force: () => this.#force() });
    this.#events = new NodeEvents({
      view: () => this.#view,
      sync: () => this.#role?.status().sync ?? null,
      trouble: () => this.#speech?.status.trouble,
    });
    const instance = (): Buffer => this.#instance;
    const nodeSecurity = this.#security;
    this.#listener = new PeerListener({
      log,
      get instance() {
        return instance();
      },
      accept: ({ remoteAddress }) => this.#accept(remoteAddress),
      onSession: (session) => {
        this.#security.met(session);
        this.#standing = 'none';
        if (this.#role === undefined) session.destroy();
        else this.#role.onSession(session);
      },
      probeAnswer: () => {
        this.#told += 1;
        return this.#probeAnswer;
      },
      resumeWithinMs: configuration.peerTimeoutUs / 1000,
      get security() {
        return nodeSecurity.links;
      },
    });
  }

  /** The role's, whichever it is now. */
  get control(): NodeControl {
    const role = (): RoleControl => this.#role ?? this.#joining;
    const { told } = this.#events;
    return {
      status: () => this.#status(),
      failover: async (options) => told('failover', await this.#failover(options)),
      switchover: async () => told('switchover', await role().switchover()),
      setPeriod: (period) => told('set-period', role().setPeriod(period)),
      setMode: async (mode) => told('set-mode', await role().setMode(mode)),
      capture: (options) => role().capture(options),
      checkpoint: () => role().checkpoint(),
      verify: (options) => role().verify(options),
      detach: async () => told('detach', await role().detach()),
      attach: async () => told('attach', await role().attach()),
      stopPeer: async () => told('stop --peer', await role().stopPeer()),
      stop: () => this.#stopAsAsked(),
      events: (query) => this.#events.read(query),
      get migration() {
        return role().migration;
      },
    };
  }

  #status(): NodeStatus {
    const { phase } = this.#view;
    const { status: security } = this.#security;
    return { ...(this.#role ?? this.#joining).status(), phase, security };
  }

  get #view(): RoleView {
    const view = (this.#role ?? this.#joining).view;
    const idles = view.phase === 'alone' || view.phase === 'joining';
    const isFenced = idles && this.#speech?.status.state === 'fenced';
    return isFenced ? { ...view, phase: 'fenced' } : view;
  }

  /**
   * Listens only once it knows what its images say: a peer that starts at the same moment and is
   * told `idle` boots the guest, from older ones if it has them.
   */
  async begin(): Promise<void> {
    const { listen, role } = this.#configuration;
    try {
      await sweepKeptRam(this.#configuration, this.#log);
      const departed = await this.#readStanding();
      this.#saved = role === 'secondary' ? await this.#readSaved() : undefined;
      this.#port = await this.#listener.listen(listen);
      this.#log.info('Listening', { host: listen.host, port: this.#port });
      if (this.#allowedPeer === undefined) {
        this.#log.warn('Any host that reaches the port may become the primary: set allow-peer');
      }
      const knowsMachine =
        this.#saved !== undefined && this.#configuration.onPeerLoss === 'failover';
      const standing = this.#standing;
      await this.#step({ kind: 'started', role, standing, knowsMachine, departed });
    } catch (error) {
      this.#events.stop();
      await this.#speech?.stop('The node can not start');
      this.#security.stop();
      this.#listener.close();
      throw error;
    }
  }

  /** Resolves to whether the guest has left this host for another one. */
  async #readStanding(): Promise<boolean> {
    const { stateDir, vm } = this.#configuration;
    this.#standing = standingOf(await readRecords(stateDir, vm));
    const record = await readMigrationRecord({ stateDir, vm });
    const departed = hasDeparted(record);
    if (departed) this.#standing = 'following';
    // It ran here last, whatever became of it.
    const { what } = record ?? {};
    if (what === 'owns' || what === 'moving') this.#standing = 'leading';
    return departed;
  }

  /** Its answer is on its way before the agent ends. */
  async #stopAsAsked(): Promise<CommandResult> {
    const result = { ok: true, detail: 'The agent ends' } as const;
    this.#events.told('stop', result);
    void this.stop('The operator stopped it');
    await this.#ending;
    return result;
  }

  async stop(reason: string): Promise<void> {
    this.#stopping = reason;
    if (this.#machine.state !== 'left') await this.#step({ kind: 'stopRequested' });
    await this.finished;
  }

  /** Of a node without the guest: what its images say of who had it last. */
  get #probeAnswer(): ProbeAnswer {
    // On its way to be the primary: who would boot the guest himself is to ask again.
    const isBooting = this.#role === undefined && this.#machine.state === 'primary';
    const answer = isBooting ? 'holding' : (this.#role?.probeAnswer ?? 'idle');
    return answer === 'idle' && this.#standing !== 'none' ? this.#standing : answer;
  }

  get #identity(): NodeIdentity {
    const security = this.#security;
    return {
      port: this.#port,
      instance: this.#instance,
      get security() {
        return security.links;
      },
      met: (session) => security.met(session),
    };
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
    // It is of use to a secondary only.
    if (USES_GUEST.includes(output.kind)) this.#leftRam.discard();
    switch (output.kind) {
      case 'boot':
        // Whoever lets it boot knows where the guest is.
        await removeMigrationRecord(this.#configuration);
        this.#role = undefined;
        if (this.#isForced) {
          await this.#startSpeech('primary');
          this.#speech?.force();
        }
        this.#take(await this.#boot());
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
        this.#role?.stop(this.#stopping ?? 'The operator wants the guest to be booted here');
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
    const peer = this.#peer;
    if (peer === undefined) return this.#machine.step({ kind: 'answered', answer: 'unreachable' });
    const toldBefore = this.#told;
    const answer = await probePeer({
      ...{ ...peer, timeoutMs: JOIN_PROBE_TIMEOUT_MS },
      security: this.#security.links,
    });
    // It was started in this moment, and has asked: it may have been told that it may boot.
    const isMissed = NO_ANSWER.includes(answer) && this.#told !== toldBefore;
    if (isMissed && this.#machine.state === 'joining') return this.#ask();
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

  /** A waiting secondary holds nothing, but its host may have images, and know the machine. */
  async #failover(options: { force: boolean }): Promise<CommandResult> {
    const waits = this.#machine.state === 'secondary' && this.#view.phase === 'joining';
    if (options.force && waits) {
      this.#saved = await this.#readSaved();
      if (this.#saved !== undefined) return this.#joining.failover(options);
    }
    return (this.#role ?? this.#joining).failover(options);
  }

  /** The operator vouches that nobody else has newer data, and that the peer is silent. */
  async #force(): Promise<void> {
    this.#isForced = true;
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

  /** Where the other host listens, as far as this one knows. */
  get #peer(): Address | undefined {
    const saved = this.#saved && { host: this.#saved.peer, port: this.#saved.hello.port };
    return this.#configuration.peer ?? saved;
  }

  /** A damaged file is no reason not to be a secondary. */
  async #readSaved(): Promise<SavedMachine | undefined> {
    try {
      return await readMachine(this.#configuration);
    } catch (error) {
      const reason = describeError(error);
      this.#log.warn('The saved machine can not be used: no guest is booted here', { reason });
      return undefined;
    }
  }

  async #boot(): Promise<NodeRole> {
    const configuration = this.#configuration;
    const saved = this.#saved;
    const peer = this.#peer;
    const lease = this.#speech?.lease;
    if (configuration.role === 'primary') {
      return this.#primaryOf(configuration.peer, {
        guest: () => bootGuest(configuration, this.#log, lease),
        policy: policyOf(configuration),
      });
    }
    if (saved === undefined || peer === undefined) {
      throw new ColoError('COLO_E_MACHINE', 'This host does not know the machine to boot');
    }
    return this.#primaryOf(peer, {
      guest: () => bootSaved(configuration, saved, { log: this.#log, lease }),
      policy: saved.hello.policy,
    });
  }

  async #primaryOf(
    peer: Address,
    parts: { readonly guest: () => Promise<Guest>; readonly policy: Policy },
  ): Promise<NodeRole> {
    const { policy } = parts;
    const { reserve, first } = await EpochReserve.open(this.#epochFile);
    const guest = await parts.guest();
    const has = { ...this.#common, guest, policy, peer };
    return new PrimaryRole({ ...has, reserve, firstEpoch: first });
  }

  async #beSecondary(): Promise<NodeRole> {
    const reserve = await EpochReserve.watch(this.#epochFile);
    this.#log.info('Waiting for a primary');
    return new SecondaryRole({ ...this.#common, reserve });
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
      record: await readMigrationRecord(this.#configuration),
    });
  }

  /** The guest that was this node's SVM speaks; this node looks for a secondary of its own. */
  async #goOnWith(promotion: Promotion): Promise<void> {
    const { guest, policy, epoch, downtimeUs } = promotion;
    const { reserve, first } = await EpochReserve.open(this.#epochFile, epoch);
    await removeMigrationRecord(this.#configuration);
    promotion.release();
    this.#take(
      new PrimaryRole({
        ...{ ...this.#common, guest, downtimeUs, policy, reserve },
        continuedFrom: epoch,
        firstEpoch: first,
        peer: this.#configuration.peer ?? promotion.peer,
      }),
    );
  }

  /** Of what both roles of a pair are made. */
  get #common() {
    return {
      configuration: this.#configuration,
      log: this.#log,
      identity: this.#identity,
      speech: this.#speech,
      watch: this.#events,
      leftRam: this.#leftRam,
    };
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
    if (this.#isForced && this.#machine.state === 'giving-up') {
      // A guard that has followed has no right that an operator could vouch for.
      await this.#speech?.stop('The operator wants the guest to be booted here');
      this.#speech = undefined;
    }
    if (end.kind === 'demoted') {
      const { reason } = end;
      const came = this.#machine.state !== 'destination';
      const what = came
        ? 'The guest runs at the peer; this node is its secondary'
        : 'No guest came';
      this.#log.warn(what, { reason });
    }
    try {
      await this.#step({ kind: 'ended', end: end.kind });
    } catch (error) {
      // Such as an image that is not there; what is no ColoError is a bug.
      if (!(error instanceof ColoError)) throw error;
      await this.#leave({ exitCode: 1, reason: describeError(error) });
    }
  }

  async #leave(exit: NodeExit): Promise<void> {
    this.#events.stop();
    await this.#speech?.stop(exit.reason);
    this.#security.stop();
    this.#listener.close();
    this.#tellEnding();
    await setImmediate();
    const failure = this.#guardFailure;
    this.#finish(failure === undefined ? exit : { exitCode: 1, reason: failure });
  }
}

function policyOf(configuration: PrimaryConfiguration): Policy {
  const { mode, periodUs, minIntervalUs, compareTimeoutUs, verify, onGuestPanic } = configuration;
  return { mode, period: periodUs, minIntervalUs, compareTimeoutUs, verify, onGuestPanic };
}
