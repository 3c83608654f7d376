/**
 * One demo run: lab up, both agents, wait until protected, load, fault in the middle, rest of the
 * load, verification, verdict, everything down again.
 */
import { setTimeout as delay } from 'node:timers/promises';
import {
  CLIENT_NAMES,
  type ClientEvent,
  type ClientReports,
  type Verification,
} from '../clients/client.js';
import { nowUs } from '../clients/clock.js';
import type { Census } from '../clients/connections.js';
import { lengthUs } from '../clients/continuity.js';
import { type AgentStatus, isProtected } from '../harness/agent-control.js';
import type { Cleanup } from '../harness/cleanup.js';
import { ClientProcess } from '../harness/client-process.js';
import type { GuestFiles } from '../harness/guest-files.js';
import { GUEST_ADDRESS, GUEST_ADDRESS_6 } from '../harness/lab.js';
import { PairLab } from '../harness/pair-lab.js';
import { CheckpointWatch, type LastCheckpoint } from './checkpoint-watch.js';
import type { DemoOptions } from './options.js';
import type { Timeline } from './timeline.js';
import { type DemoResult, judge, OUTAGE_MS_MAX } from './verdict.js';

/** Far above any outage that the verdict accepts: the time line then still says what happened. */
const REACTION_DEADLINE_MS = 10_000;
/** A gap this long is told while the load runs; a checkpoint period must not be one. */
const TELL_GAP_MS = 300;

/** From this long before the fault on, or two periods, the pair's checkpoints are watched. */
const WATCH_MS = 1000;

/**
 * A fetch of 1 MiB takes nine round trips, and with held output each takes a period: until the
 * first fetches are through, completions say nothing about the service.
 */
const WARM_UP_MS = 3000;

export interface RunContext {
  readonly root: string;
  readonly guest: GuestFiles;
  readonly options: DemoOptions;
  readonly timeline: Timeline;
  readonly cleanup: Cleanup;
}

/** What happened to the pair at the fault. */
interface FaultOutcome {
  readonly before: AgentStatus;
  readonly atUs: number;
  readonly failedOver: boolean;
}

/** The caller runs the cleanup; files are kept when the run is not ok or throws. */
export async function runDemo(context: RunContext): Promise<DemoResult> {
  const { options, timeline } = context;
  const pair = await bringUp(context);
  try {
    await protect(pair, timeline);
    timeline.tell(`load starts: ${CLIENT_NAMES.join(', ')}`);
    const clients = await startLoad(pair, context);
    timeline.tell('warm-up is over, the measured load runs');
    const atStart = await pair.status('hosta');
    const watchMs = Math.min(Math.max(2 * options.periodMs, WATCH_MS), options.durationMs / 2);
    await delay(options.durationMs / 2 - watchMs);
    const watch = new CheckpointWatch(pair);
    await delay(watchMs);
    const outcome = await injectFault(pair, context);
    const checkpoint = await watch.stop();
    const verified = clients.verify();
    await delay(options.durationMs / 2);
    const atFault = await verified;
    const reports = await clients.stop();
    tellReports(reports, timeline);
    const seen = { ...context, atStart, outcome, checkpoint, atFault, reports };
    const result = await conclude(pair, seen);
    if (!result.ok || options.keep) keep(pair, context);
    return result;
  } catch (error) {
    if (!context.cleanup.started) keep(pair, context);
    throw error;
  }
}

async function bringUp({ root, guest, options, timeline, cleanup }: RunContext): Promise<PairLab> {
  const pair = await PairLab.up(
    {
      root,
      guest,
      memoryMib: options.memoryMib,
      periodMs: options.periodMs,
      mode: options.mode,
    },
    cleanup,
  );
  timeline.tell('lab is up: hosta, hostb and the client, each in a network namespace');
  return pair;
}

async function protect(pair: PairLab, timeline: Timeline): Promise<void> {
  await pair.startSecondary();
  timeline.tell('secondary started on hostb, without an image');
  await pair.startPrimary();
  timeline.tell('primary started on hosta, the guest boots');
  let last = '';
  const status = await pair.waitProtected(({ sync, state }) => {
    if (sync !== null) timeline.progress(sync.doneBytes, sync.totalBytes);
    if (state !== last) timeline.tell(`primary: ${state}`);
    last = state;
  });
  timeline.endProgress();
  const how = `${status.accelerator}, dirty pages by ${status.dirtyTracker}`;
  timeline.tell(`synchronised and protected (${how})`);
  await pair.waitGuest();
  timeline.tell('the guest is up, all its services answer');
}

async function startLoad(pair: PairLab, { options, timeline }: RunContext): Promise<ClientProcess> {
  return ClientProcess.start({
    enter: pair.lab.client.enter,
    buildDir: pair.buildDir,
    target: GUEST_ADDRESS,
    clients: CLIENT_NAMES,
    logPath: `${pair.directory}/clients.log`,
    args: [
      ...['--gap-ms', String(Math.max(TELL_GAP_MS, 2 * options.periodMs))],
      ...['--warm-up-ms', String(WARM_UP_MS), '--target6', GUEST_ADDRESS_6],
      ...['--random-interval-ms', String(options.randomMs)],
    ],
    onEvent: (event) => tellClientEvent(event, timeline),
  });
}

function tellClientEvent(event: ClientEvent, timeline: Timeline): void {
  if (event.type === 'lost') {
    timeline.tell(`${event.client}: lost: ${event.reason}`, event.atUs);
    return;
  }
  const ms = Math.round(lengthUs(event.gap) / 1000);
  timeline.tell(`${event.client}: answers again, ${ms} ms after its last answer`, event.gap.toUs);
}

async function injectFault(pair: PairLab, context: RunContext): Promise<FaultOutcome> {
  const { timeline, options } = context;
  const before = await pair.status('hosta');
  switch (options.fault) {
    case 'none':
      timeline.tell('no fault, as asked');
      return { before, atUs: nowUs(), failedOver: false };
    case 'kill-secondary': {
      const atUs = await pair.kill('hostb');
      timeline.tell('FAULT: SIGKILL of everything on hostb', atUs);
      await tellWhen(pair, timeline, {
        host: 'hosta',
        holds: (status) => status.peer.state !== 'connected',
        text: 'hosta noticed it and serves on, unprotected',
        faultUs: atUs,
      });
      return { before, atUs, failedOver: false };
    }
    case 'kill-primary':
    case 'kill-qemu-primary': {
      const whole = options.fault === 'kill-primary';
      const atUs = whole ? await pair.kill('hosta') : await pair.signalQemu('hosta', 'SIGKILL');
      const what = whole ? 'everything on hosta' : 'the emulator on hosta';
      timeline.tell(`FAULT: SIGKILL of ${what}`, atUs);
      const failedOver = await tellWhen(pair, timeline, {
        host: 'hostb',
        holds: (status) => status.role === 'primary',
        text: 'hostb noticed it and took over',
        faultUs: atUs,
      });
      return { before, atUs, failedOver };
    }
  }
}

interface Reaction {
  readonly host: 'hosta' | 'hostb';
  readonly holds: (status: AgentStatus) => boolean;
  readonly text: string;
  readonly faultUs: number;
}

/** Tells when a host reacted to the fault; false if it never did. */
async function tellWhen(pair: PairLab, timeline: Timeline, reaction: Reaction): Promise<boolean> {
  const { host, holds, text, faultUs } = reaction;
  try {
    await pair.waitStatus(host, text, holds, REACTION_DEADLINE_MS);
  } catch (error) {
    timeline.tell((error as Error).message);
    return false;
  }
  const ms = Math.round((nowUs() - faultUs) / 1000);
  timeline.tell(`${text} (seen ${ms} ms after the fault)`);
  return true;
}

function tellReports(reports: ClientReports, timeline: Timeline): void {
  timeline.tell('load stopped, all acknowledged writes and random answers read back');
  const { http, redis, stream, accepted, dialled, random } = reports;
  if (http !== undefined) {
    const slowest = Math.round(http.slowestFetchUs / 1000);
    timeline.tell(`http:     ${http.successes} fetches, the slowest took ${slowest} ms`);
  }
  if (redis !== undefined) {
    const lost = redis.acknowledgedLost ?? 'an unknown number';
    timeline.tell(`redis:    ${redis.acknowledged} writes acknowledged, ${lost} lost`);
  }
  if (stream !== undefined) {
    const wrong = `${stream.missing} missing, ${stream.repeats} repeated`;
    timeline.tell(`stream:   ${stream.lines} lines, ${wrong}`);
  }
  for (const [name, report] of Object.entries({ accepted, dialled })) {
    if (report === undefined) continue;
    const connections = `${report.established} connections, ${report.dead} dead`;
    const lines = `${report.successes} lines there and back, wrong on ${report.wrong}`;
    timeline.tell(`${`${name}:`.padEnd(9)} ${connections}; ${lines}`);
  }
  if (random !== undefined) {
    const { successes, asked, contradictions = 'an unknown number' } = random;
    timeline.tell(`random:   ${successes} of ${asked} answered, ${contradictions} contradicted`);
  }
}

interface Observations extends RunContext {
  readonly atStart: AgentStatus;
  readonly outcome: FaultOutcome;
  readonly checkpoint: LastCheckpoint;
  /** Read back soon after the fault. */
  readonly atFault: Verification;
  readonly reports: ClientReports;
}

async function conclude(pair: PairLab, seen: Observations): Promise<DemoResult> {
  const { options, atStart, outcome, timeline } = seen;
  const { fault } = options;
  // Without a fault the pair protects to the end; otherwise the last word is from before the fault.
  const last = fault === 'none' ? await pair.status('hosta') : outcome.before;
  const secondary = fault === 'kill-secondary' ? undefined : await pair.status('hostb');
  const checkpointUs = checkpointBefore(seen, secondary);
  const sinceMs = Math.round((outcome.atUs - checkpointUs) / 1000);
  timeline.tell(`the last checkpoint before the fault was at least ${sinceMs} ms old`);
  const result = judge(
    {
      mode: last.mode,
      fault,
      protectedAtFault: isProtected(atStart) && isProtected(last),
      failedOver: outcome.failedOver || secondary?.role === 'primary',
      checkpoints: last.checkpoints.total - atStart.checkpoints.total,
      pauseMs: { median: last.pauseMs.median ?? 0, p99: last.pauseMs.p99 ?? 0 },
      faultUs: outcome.atUs,
      checkpointUs,
    },
    withWorst(seen.reports, seen.atFault),
  );
  for (const [client, census] of Object.entries(result.opened)) {
    if (census !== null) timeline.tell(`${`${client}:`.padEnd(9)} ${describeCensus(census)}`);
  }
  for (const [client, ms] of Object.entries(result.outageMs)) {
    timeline.tell(`${client}: longest outage ${ms} ms (allowed: ${OUTAGE_MS_MAX})`);
  }
  return result;
}

/** Not earlier than the last commit before the fault: one that nobody saw may be as late as it. */
function checkpointBefore(
  { checkpoint, outcome }: Observations,
  secondary: AgentStatus | undefined,
): number {
  if (!outcome.failedOver) return Math.min(checkpoint.atUs, outcome.atUs);
  const unseen = secondary?.committedEpoch !== checkpoint.committedEpoch;
  return unseen ? outcome.atUs : checkpoint.atUs;
}

/** Both readings must be right: one taken soon after the fault, one at the end. */
function withWorst(reports: ClientReports, atFault: Verification): ClientReports {
  const { redis, random } = reports;
  const worst = (a: number | undefined, b: number | undefined): number | undefined =>
    a === undefined || b === undefined ? undefined : Math.max(a, b);
  const acknowledgedLost = worst(redis?.acknowledgedLost, atFault.acknowledgedLost);
  const contradictions = worst(random?.contradictions, atFault.contradictions);
  return {
    ...reports,
    ...(redis === undefined ? {} : { redis: { ...redis, acknowledgedLost } }),
    ...(random === undefined ? {} : { random: { ...random, contradictions } }),
  };
}

function describeCensus(census: Census): string {
  const { open, sinceCheckpoint, survived, sinceCheckpointSurvived, agesMs } = census;
  const ages = agesMs === null ? '' : ` (${agesMs[0]} to ${agesMs[1]} ms old)`;
  const young = `${sinceCheckpoint} of them opened since the last checkpoint${ages}`;
  const lostYoung = sinceCheckpoint - sinceCheckpointSurvived;
  const left =
    survived === open ? 'all survived' : `lost ${open - survived}, ${lostYoung} of the new`;
  return `${open} open at the fault, ${young}: ${left}`;
}

function keep(pair: PairLab, { options, timeline }: RunContext): void {
  pair.keepFiles(options.keep ? 'all' : 'logs');
  timeline.endProgress();
  const what = "Logs of both agents, of the guest's console and of the clients";
  process.stderr.write(`${what}: ${pair.directory}\n`);
}
