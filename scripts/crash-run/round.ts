/**
 * Rounds of the crash test: a protected pair, load, a power cut, and then everything that is left
 * is looked at. A pair is used again where the guest lives on or can be booted from what is left;
 * the ledger grows with it, so what an earlier round settled is checked again by all later ones.
 *
 * | fault     | what is looked at                                                                |
 * | --------- | -------------------------------------------------------------------------------- |
 * | primary   | the dead host's image; the guest on the survivor; its image after a power-off    |
 * | secondary | the dead host's image with its journal; the guest, which runs on                 |
 * | both      | both hosts' images, each alone; the guest booted from the primary's              |
 * | survivor  | the dead primary's image; that of the host that took over and died soon after    |
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Prng } from '../../src/lib/index.js';
import { callAgent } from '../harness/agent-control.js';
import { Cleanup } from '../harness/cleanup.js';
import { GuestControl } from '../harness/guest-control.js';
import type { GuestFiles } from '../harness/guest-files.js';
import { GUEST_ADDRESS, type HostName, signalAll } from '../harness/lab.js';
import type { Mode } from '../harness/modes.js';
import { PairLab } from '../harness/pair-lab.js';
import { readGuest, Writers } from './clients.js';
import { type CheckpointEvent, locate, type Position, parseLog } from './epoch-log.js';
import {
  type CrashedImage,
  checkImage,
  dispose,
  type EarlyImage,
  takeEarly,
  takeImage,
} from './image-check.js';
import { type Bounds, countWrites, EVERYTHING, Ledger } from './ledger.js';
import { drawMoment, type Moment, waitMoment } from './moment.js';
import type { CrashOptions, Fault } from './options.js';

const MEMORY_MIB = 256;
/** The load runs so many periods before a fault, and not shorter than this. */
const LOAD_PERIODS = 4;
const LOAD_MS_MIN = 1500;
/** A guest that lives on goes on to be written to. */
const AFTERWARDS_MS = 500;
const POWER_OFF_DEADLINE_MS = 30_000;
const BOOT_DEADLINE_MS = 60_000;
const POLL_MS = 50;
/** The logs' clock has milliseconds; a line is written a little after what it tells of. */
const CLOCK_SLACK_MS = 3;
/** A machine that is busy with other things must not look like a lost peer. */
const PATIENT = ['--peer-timeout', '3s'];
/** The agents' name of the guest in the lab. */
const VM = 'demo';

/** How long the one that took over may live in a round of `survivor`; rather less. */
const SURVIVES_MS = 1000;
const HOSTS: Readonly<Record<Exclude<Fault, 'survivor'>, readonly HostName[]>> = {
  primary: ['hosta'],
  secondary: ['hostb'],
  both: ['hosta', 'hostb'],
};

export interface CrashContext {
  readonly root: string;
  readonly guest: GuestFiles;
  readonly options: CrashOptions;
  readonly prng: Prng;
  readonly tell: (text: string) => void;
}

export interface RoundResult {
  readonly round: number;
  readonly fault: Fault;
  readonly moment: Moment;
  readonly position: Position;
  readonly acknowledged: number;
  /** Nobody told the client what became of them. */
  readonly unanswered: number;
  readonly refused: number;
  /** What was found on the hosts without power. */
  readonly images: readonly ImageResult[];
  readonly seconds: number;
  readonly problems: readonly string[];
}

/** What was found on a host without power. */
export interface ImageResult {
  readonly host: 'primary' | 'secondary' | 'survivor';
  /** Acknowledged writes that had to be in it, also of earlier rounds. */
  readonly demanded: number;
  /** Of a secondary: the epoch that its image is at, and how many the journal had to add. */
  readonly epoch: number | null;
  readonly replayed: number;
  /** Of a secondary: the journal made the same of a copy from before the load. */
  readonly rebuilt: boolean;
  /** Redis does not start from it by itself, so it is not booted: see AppendOnlyFile. */
  readonly zeroTail: boolean;
}

/** A pair and what was written to its guest. */
interface Chain {
  readonly pair: PairLab;
  readonly cleanup: Cleanup;
  readonly ledger: Ledger;
  readonly stopListening: () => void;
  /** Power of hostb is on. */
  secondaryRuns: boolean;
}

/** One host's image after a crash, and what must be in it. */
interface Remains {
  readonly host: 'primary' | 'secondary' | 'survivor';
  readonly image: CrashedImage;
  readonly bounds: (epoch: number | undefined) => Bounds;
}

export class CrashTest {
  readonly #context: CrashContext;
  #chain: Chain | undefined;

  constructor(context: CrashContext) {
    this.#context = context;
  }

  async round(round: number, fault: Fault): Promise<RoundResult> {
    const startMs = Date.now();
    const { options, prng } = this.#context;
    const chain = await this.#protectedChain();
    const { pair, ledger } = chain;
    const early = fault === 'primary' ? undefined : await takeEarlyOf(pair);
    const writers = await Writers.start(pair, `r${round}`);
    const moment = drawMoment(prng);
    await delay(Math.max(LOAD_MS_MIN, LOAD_PERIODS * options.periodMs));
    const facts = await this.#injectFault(pair, fault, moment);
    this.#tell(`round ${round}: power cut of ${fault}`);
    const survives = fault === 'primary' || fault === 'secondary';
    if (survives) await delay(AFTERWARDS_MS);
    const report = await writers.end(survives ? 'stop' : 'abandon');
    ledger.add(report);
    const found = await this.#checkRemains(chain, {
      remains: remainsOf(pair, ledger, { ...facts, early }),
      events: facts.events,
    });
    const problems = [...report.problems, ...found.problems];
    const boots =
      fault === 'both' &&
      !found.images.some(({ host, zeroTail }) => {
        return host === 'primary' && zeroTail;
      });
    if (boots) await bootAlone(pair);
    if (survives || boots) problems.push(...(await this.#checkGuest(chain)));
    if (fault === 'primary') problems.push(...(await this.#powerOff(chain, 'hostb')));
    const over = fault !== 'secondary' && !boots;
    if (problems.length === 0 && over) await this.#takeDown();
    chain.secondaryRuns = false;
    return {
      round,
      fault,
      moment,
      position: locate(facts.events, facts.killedMs),
      ...countWrites(report),
      refused: report.refused,
      images: found.images,
      seconds: (Date.now() - startMs) / 1000,
      problems,
    };
  }

  /** The last pair's guest is powered off and its image checked; everything is taken down. */
  async finish(): Promise<string[]> {
    const chain = this.#chain;
    if (chain === undefined) return [];
    const problems = await this.#powerOff(chain, 'hosta');
    if (problems.length === 0) await this.#takeDown();
    return problems;
  }

  /** Where the running pair's files are. */
  get directory(): string | undefined {
    return this.#chain?.pair.directory;
  }

  /** Takes everything down, whatever is under way. */
  async abandon(options: { keepFiles: boolean }): Promise<void> {
    if (options.keepFiles) this.#chain?.pair.keepFiles('all');
    await this.#takeDown();
  }

  /** A signal came, and its handler takes everything down. */
  get interrupted(): boolean {
    return this.#chain?.cleanup.started === true;
  }

  async #protectedChain(): Promise<Chain> {
    const chain = this.#chain ?? (await this.#bringUp());
    if (!chain.secondaryRuns) {
      await chain.pair.startSecondary();
      chain.secondaryRuns = true;
    }
    await chain.pair.waitProtected();
    await chain.pair.waitGuest();
    return chain;
  }

  async #bringUp(): Promise<Chain> {
    const { root, guest, options } = this.#context;
    const cleanup = new Cleanup();
    const stopListening = cleanup.onSignals();
    const pair = await PairLab.up(
      {
        root,
        guest,
        memoryMib: MEMORY_MIB,
        periodMs: options.periodMs,
        mode: options.mode,
        logLevel: 'debug',
        primaryFlags: PATIENT,
        secondaryFlags: PATIENT,
      },
      cleanup,
    );
    if (options.keep) pair.keepFiles('all');
    const chain = { pair, cleanup, stopListening, ledger: new Ledger(), secondaryRuns: true };
    this.#chain = chain;
    await pair.startSecondary();
    await pair.startPrimary();
    return chain;
  }

  async #takeDown(): Promise<void> {
    const chain = this.#chain;
    this.#chain = undefined;
    await chain?.cleanup.run();
    chain?.stopListening();
  }

  async #injectFault(pair: PairLab, fault: Fault, moment: Moment): Promise<Facts> {
    const { options, prng } = this.#context;
    const survivesMs = prng.nextFloat() ** 2 * SURVIVES_MS;
    const first = fault === 'survivor' ? 'primary' : fault;
    const killedMs = await cutPower(pair, first, () => waitMoment(pair, moment));
    const times = { killedMs, takeoverMs: killedMs, againMs: killedMs };
    if (first !== 'both') await noticed(pair, first === 'primary' ? 'hostb' : 'hosta');
    if (fault === 'survivor') {
      times.takeoverMs = Date.now();
      times.againMs = await cutPower(pair, 'secondary', () => delay(survivesMs));
    }
    return { fault, mode: options.mode, events: await checkpointEvents(pair), ...times };
  }

  async #checkRemains(
    { ledger }: Chain,
    { remains, events }: { remains: readonly Remains[]; events: readonly CheckpointEvent[] },
  ): Promise<{ problems: string[]; images: ImageResult[] }> {
    const problems: string[] = [];
    const epochsSince = (ms: number): number => {
      return events.filter(({ step, atMs }) => step === 'applied' && atMs >= ms).length;
    };
    await Promise.all(remains.map(({ image }) => takeImage(image)));
    const images = await Promise.all(
      remains.map(async ({ host, image, bounds }): Promise<ImageResult> => {
        const checked = await checkImage(image, ledger.directories, epochsSince);
        const { epoch = null, replayed, rebuilt, zeroTail } = checked;
        const must = bounds(checked.epoch);
        const wrong = [...checked.problems, ...ledger.check(checked.contents, must)];
        if (host === 'secondary' && epoch === null) {
          wrong.push('The journal does not tell the epoch');
        }
        problems.push(...wrong.map((problem) => `Image of the ${host}: ${problem}`));
        if (wrong.length === 0) await dispose(image);
        return { host, demanded: ledger.demanded(must), epoch, replayed, rebuilt, zeroTail };
      }),
    );
    return { problems, images };
  }

  async #checkGuest({ pair, ledger }: Chain): Promise<string[]> {
    const contents = await readGuest(pair, ledger);
    const problems = ledger.check(contents, EVERYTHING);
    ledger.settle(contents, Date.now());
    return problems.map((problem) => `The running guest: ${problem}`);
  }

  /** In order, so that the image must be right as it is; its agent ends with the guest. */
  async #powerOff(chain: Chain, host: HostName): Promise<string[]> {
    const { pair } = chain;
    const control = new GuestControl({
      enter: pair.lab.client.enter,
      buildDir: pair.buildDir,
      host: GUEST_ADDRESS,
      logPath: join(pair.directory, 'guest-control.log'),
    });
    try {
      await control.command('poweroff');
    } finally {
      control.close();
    }
    await allGone(pair, host);
    const image = { path: imagePath(pair, host), workDirectory: join(pair.directory, 'off') };
    const remains: Remains[] = [{ host: 'primary', image, bounds: () => EVERYTHING }];
    const { problems } = await this.#checkRemains(chain, { remains, events: [] });
    return problems.map((problem) => `After the power-off: ${problem}`);
  }

  #tell(text: string): void {
    this.#context.tell(text);
  }
}

/** SIGKILL for everything on the hosts, at once; returns the time before it, milliseconds. */
async function cutPower(
  pair: PairLab,
  whose: Exclude<Fault, 'survivor'>,
  moment: () => Promise<void>,
): Promise<number> {
  const hosts = HOSTS[whose];
  // Asked for before: it takes some milliseconds, and the moment would be over.
  const pids = (await Promise.all(hosts.map((host) => pair.lab[host].pids()))).flat();
  await moment();
  const atMs = Date.now();
  signalAll(pids, 'SIGKILL');
  await Promise.all(hosts.map((host) => pair.lab[host].killAll()));
  return atMs;
}

async function noticed(pair: PairLab, survivor: HostName): Promise<void> {
  await pair.waitStatus(survivor, 'it serves alone', ({ role, state, peer }) => {
    return role === 'primary' && state !== 'protected' && peer.state !== 'connected';
  });
}

/** From the primary's image, with nobody at the other end. */
async function bootAlone(pair: PairLab): Promise<void> {
  await pair.startPrimary();
  // An agent that waits for its peer is told not to; one that has booted the guest refuses.
  const socket = join(pair.directory, 'hosta', 'run', 'control.sock');
  const force = { command: 'failover', arguments: { force: true } } as const;
  await callAgent(socket, force, BOOT_DEADLINE_MS).catch(() => undefined);
  await pair.waitGuest();
}

async function checkpointEvents(pair: PairLab): Promise<CheckpointEvent[]> {
  const texts = ['hosta', 'hostb'] as const;
  const logs = await Promise.all(texts.map((host) => readFile(pair.logPath(host), 'utf8')));
  return logs.flatMap(parseLog);
}

function imagePath(pair: PairLab, host: HostName): string {
  if (host === 'hosta') return pair.imagePath;
  return join(pair.directory, 'hostb', 'state', `${VM}-root.img`);
}

function takeEarlyOf(pair: PairLab): Promise<EarlyImage> {
  return takeEarly(imagePath(pair, 'hostb'), join(pair.directory, 'early-secondary'));
}

interface Facts {
  readonly fault: Fault;
  readonly mode: Mode;
  readonly events: readonly CheckpointEvent[];
  /** The power cut; for the fault `survivor` the first one. */
  readonly killedMs: number;
  /** For the fault `survivor`: the guest was seen to run on, and the second power cut. */
  readonly takeoverMs: number;
  readonly againMs: number;
}

/** The images of the hosts that lost their power, and what must be in them. */
function remainsOf(
  pair: PairLab,
  ledger: Ledger,
  facts: Facts & { readonly early: EarlyImage | undefined },
): Remains[] {
  const { fault, killedMs, early } = facts;
  const remains: Remains[] = [];
  if (fault !== 'secondary') {
    const image = {
      path: imagePath(pair, 'hosta'),
      workDirectory: join(pair.directory, 'crashed-primary'),
    };
    // What was acknowledged before the cut was on this image; of `both`, everything was.
    const ackedBeforeMs = fault === 'both' ? Number.POSITIVE_INFINITY : killedMs;
    const sentUntilMs = killedMs + CLOCK_SLACK_MS;
    const bounds = { ackedBeforeMs, sentUntilMs, forked: fault !== 'both' };
    remains.push({ host: 'primary', image, bounds: () => bounds });
  }
  if (fault !== 'primary') {
    const image = {
      path: imagePath(pair, 'hostb'),
      journal: { directory: join(pair.directory, 'hostb', 'state'), vm: VM },
      workDirectory: join(pair.directory, 'crashed-secondary'),
      ...(early === undefined ? {} : { early }),
    };
    const bounds = (epoch: number | undefined): Bounds => {
      const asSecondary = secondaryBounds(epoch, facts);
      return fault === 'survivor' ? survivorBounds(asSecondary, ledger, facts) : asSecondary;
    };
    remains.push({ host: fault === 'survivor' ? 'survivor' : 'secondary', image, bounds });
  }
  return remains;
}

/**
 * What the one that took over has synced is on its image. Before its first sync, that is what it
 * had as a secondary: in mode colo the newest answers are lost with the second host.
 */
function survivorBounds(asSecondary: Bounds, ledger: Ledger, facts: Facts): Bounds {
  const syncedMs = ledger.lastSyncedMs(facts.takeoverMs);
  return {
    ackedBeforeMs: Math.max(asSecondary.ackedBeforeMs, syncedMs),
    sentUntilMs: facts.againMs + CLOCK_SLACK_MS,
  };
}

/**
 * The image is at the end of `epoch`, so nothing is in it that was sent after the guest ran on from
 * that epoch's pause. In mode checkpoint an answer leaves with its epoch's commit, so all answers
 * must be in it; in mode colo, those from before the pause of the last applied epoch.
 */
function secondaryBounds(epoch: number | undefined, facts: Facts): Bounds {
  const { events, killedMs, mode } = facts;
  const before = events.filter(({ atMs }) => atMs <= killedMs);
  const applied = before.findLast(({ step }) => step === 'applied')?.epoch;
  const pause = events.find((event) => event.step === 'captured' && event.epoch === applied);
  const pausedMs = pause === undefined ? 0 : pause.atMs - pause.pauseMs - CLOCK_SLACK_MS;
  const end = events.find((event) => event.step === 'captured' && event.epoch === epoch);
  return {
    ackedBeforeMs: mode === 'checkpoint' ? killedMs : pausedMs,
    sentUntilMs: Math.min(end?.atMs ?? killedMs, killedMs) + CLOCK_SLACK_MS,
  };
}

async function allGone(pair: PairLab, host: HostName): Promise<void> {
  const untilMs = Date.now() + POWER_OFF_DEADLINE_MS;
  while ((await pair.lab[host].pids()).length > 0) {
    if (Date.now() > untilMs) {
      throw new Error(`${host}: not over ${POWER_OFF_DEADLINE_MS} ms after the guest's power-off`);
    }
    await delay(POLL_MS);
  }
}
