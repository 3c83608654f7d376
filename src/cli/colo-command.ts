/**
 * What `colo` does, as a function of its arguments and the few things it touches: everything goes
 * to `Surroundings`, so the tests run it whole. With `--json` each outcome, errors too, is one
 * line of JSON on stdout; without, answers go to stdout and errors to stderr.
 */
import type { NodeStatus } from '../config/index.js';
import { ColoError, describeError, OperatorError } from '../lib/index.js';
import {
  type AgentChoice,
  type CheckConfigWish,
  type ColoPlace,
  type ColoWish,
  type CompareWish,
  type DiscardWish,
  parseColoArguments,
} from './colo-arguments.js';
import type { CompareOutcome } from './compare-files.js';
import { comparisonJson, formatComparison, isMismatched } from './compare-text.js';
import { type FileReport, filesToCheck } from './config-check.js';
import {
  type Command,
  decodeDone,
  decodeEvents,
  decodeStatus,
  decodeVerified,
  type Response,
} from './control-wire.js';
import type { DiscardedDisk, DiscardPlan } from './discard-images.js';
import { formatDiscarded, formatVerified } from './disk-text.js';
import { formatEvent } from './event-text.js';
import { AgentUnreachable, EXIT, exitCodeOf } from './exit-codes.js';
import {
  ANSWER_MS_MAX,
  DEED_MS_MAX,
  EVENTS_WAIT_MS,
  MIGRATE_MS_MAX,
  STOP_MS_MAX,
  VERIFY_MS_MAX,
} from './limits.js';
import type { Made } from './pki/authority.js';
import type { ShownCertificate } from './pki/certificate-file.js';
import type { PkiWish } from './pki/pki-arguments.js';
import { formatInit, formatIssued, formatShown } from './pki/pki-text.js';
import { formatStatus, migrationText, movedText, verifyText } from './status-text.js';

/** The world of one run of `colo`. */
export interface Surroundings extends ColoPlace {
  readonly isTerminal: boolean;
  readonly print: (text: string) => void;
  readonly complain: (text: string) => void;
  readonly call: (path: string, command: Command, timeoutMs: number) => Promise<Response>;
  /** File names in a folder; none when there is no such folder. */
  readonly list: (folder: string) => Promise<string[]>;
  /** Compares the files of captures; on a terminal it shows how far it is. */
  readonly compareFiles: (wish: CompareWish) => Promise<CompareOutcome>;
  /** Checks one configuration file on this host. */
  readonly checkConfig: (file: string, role: CheckConfigWish['role']) => Promise<FileReport>;
  /** The images that a `discard-image` means. Throws OperatorError. */
  readonly planDiscard: (wish: DiscardWish) => Promise<DiscardPlan>;
  readonly carryOutDiscard: (plan: DiscardPlan) => Promise<DiscardedDisk[]>;
  /** Makes a CA or a host's certificate. Throws ColoError. */
  readonly makeCertificate: (wish: Exclude<PkiWish, { kind: 'show' }>) => Promise<Made>;
  readonly showCertificates: (wish: PkiWish & { kind: 'show' }) => Promise<ShownCertificate[]>;
  /** False also where nobody can be asked. */
  readonly confirm: (question: string) => Promise<boolean>;
  /** Waits for the next look of `--watch`; false ends it. */
  readonly nextLook: () => Promise<boolean>;
  /** What Ctrl-C does, until the function that it gives is called: then the usual. */
  readonly onInterrupt: (deed: () => Promise<void>) => () => void;
}

type Call = Extract<ColoWish, { kind: 'call' }>;

/** Clear from the top left corner on (ECMA-48 CUP, ED). */
const CLEAR_SCREEN = '\x1b[H\x1b[J';

/** Runs `colo` with these arguments; gives the exit code. */
export async function runColo(argv: readonly string[], around: Surroundings): Promise<number> {
  const wish = await parseColoArguments(argv, around);
  switch (wish.kind) {
    case 'print':
      around.print(wish.text);
      return EXIT.ok;
    case 'usage':
      report(around, wish.json, { code: 'COLO_E_USAGE', reason: wish.message });
      return EXIT.usage;
    case 'compare':
      return await compare(wish.compare, around);
    case 'check-config':
      return await checkConfig(wish.check, around);
    case 'discard-image':
      return await discardImages(wish.discard, around);
    case 'pki':
      return await pki(wish.pki, around);
    case 'call':
      if (wish.command.command === 'verify') return await verify(wish, around);
      if (wish.command.command === 'events') return await tellEvents(wish, around);
      if (wish.command.command === 'migrate') return await migrate(wish, around);
      return wish.watch ? await watch(wish, around) : await callOnce(wish, around);
  }
}

async function callOnce(wish: Call, around: Surroundings, before = ''): Promise<number> {
  try {
    const path = await findSocket(wish.agent, around.list);
    const { command } = wish;
    const response = await around.call(path, command, answerMs(command));
    if (!response.ok) {
      report(around, wish.json, response.error);
      return EXIT.failed;
    }
    around.print(before + formatResult(wish, response.result));
    return EXIT.ok;
  } catch (error) {
    if (!(error instanceof ColoError)) throw error;
    report(around, wish.json, { code: error.code, reason: describeError(error) });
    return exitCodeOf(error);
  }
}

async function verify(wish: Call, around: Surroundings): Promise<number> {
  return await lengthy(wish, around, {
    limitMs: VERIFY_MS_MAX,
    progress: (status) => (status.verify === null ? '' : verifyText(status.verify)),
    finish: (result) => {
      const disks = decodeVerified(result);
      const ok = disks.every(({ remaining }) => remaining === 0);
      around.print(wish.json ? `${JSON.stringify({ ok, disks })}\n` : formatVerified(disks));
      return ok ? EXIT.ok : EXIT.failed;
    },
  });
}

async function migrate(wish: Call, around: Surroundings): Promise<number> {
  return await lengthy(wish, around, {
    limitMs: MIGRATE_MS_MAX,
    progress: ({ migration }) => (migration === null ? '' : migrationText(migration)),
    finish: (result) => {
      around.print(formatResult(wish, result));
      return EXIT.ok;
    },
    interrupted: { command: 'migrate-cancel', arguments: {} },
  });
}

interface Lengthy {
  readonly limitMs: number;
  /** Empty while nothing is known. */
  readonly progress: (status: NodeStatus) => string;
  /** Prints what came of it; gives the exit code. */
  readonly finish: (result: unknown) => number;
  /** What the agent is told when the operator gives up; by default it goes on. */
  readonly interrupted?: Command;
}

/** Shows how far it is on stderr, as the agent's status tells it. */
async function lengthy(wish: Call, around: Surroundings, what: Lengthy): Promise<number> {
  try {
    const path = await findSocket(wish.agent, around.list);
    const { interrupted } = what;
    const forget = around.onInterrupt(async () => {
      if (interrupted !== undefined) await around.call(path, interrupted, ANSWER_MS_MAX);
    });
    try {
      const answer = around.call(path, wish.command, what.limitMs);
      await showProgress(path, answer, wish.json ? undefined : what.progress, around);
      const response = await answer;
      if (response.ok) return what.finish(response.result);
      report(around, wish.json, response.error);
      return EXIT.failed;
    } finally {
      forget();
    }
  } catch (error) {
    if (!(error instanceof ColoError)) throw error;
    report(around, wish.json, { code: error.code, reason: describeError(error) });
    return exitCodeOf(error);
  }
}

async function showProgress(
  path: string,
  answer: Promise<unknown>,
  progress: ((status: NodeStatus) => string) | undefined,
  around: Surroundings,
): Promise<void> {
  let isDone = false;
  const finished = (): void => {
    isDone = true;
  };
  const done = answer.then(finished, finished);
  let shown = '';
  while (progress !== undefined && !isDone) {
    if ((await Promise.race([done, around.nextLook()])) !== true) return;
    const text = await progressText(path, progress, around);
    if (text !== '' && text !== shown && !isDone) around.complain(`colo: ${text}\n`);
    shown = text;
  }
}

/** Empty while nothing is known: the command itself tells of an agent that is gone. */
async function progressText(
  path: string,
  progress: (status: NodeStatus) => string,
  around: Surroundings,
): Promise<string> {
  try {
    const status = await around.call(path, { command: 'status', arguments: {} }, ANSWER_MS_MAX);
    return status.ok ? progress(decodeStatus(status.result)) : '';
  } catch (error) {
    if (!(error instanceof ColoError)) throw error;
    return '';
  }
}

async function discardImages(wish: DiscardWish, around: Surroundings): Promise<number> {
  try {
    const plan = await around.planDiscard(wish);
    if (!wish.yes) {
      const images = plan.disks.map(({ name, path }) => `  disk ${name}: ${path}\n`).join('');
      const question =
        `The data of these images of ${plan.vm} will be given up for the other host's:\n` +
        `${images}Go on? [yes/no] `;
      if (!(await around.confirm(question))) {
        const reason = 'nothing was given up, expected "yes", or the flag --yes';
        report(around, wish.json, { code: 'COLO_E_NOT_CONFIRMED', reason });
        return EXIT.failed;
      }
    }
    const disks = await around.carryOutDiscard(plan);
    around.print(wish.json ? `${JSON.stringify({ ok: true, disks })}\n` : formatDiscarded(disks));
    return EXIT.ok;
  } catch (error) {
    if (!(error instanceof ColoError)) throw error;
    report(around, wish.json, { code: error.code, reason: describeError(error) });
    return exitCodeOf(error);
  }
}

/** What is kept, and with `--follow` what comes, until the agent or the operator has enough. */
async function tellEvents(wish: Call, around: Surroundings): Promise<number> {
  try {
    const path = await findSocket(wish.agent, around.list);
    const asked = wish.command as Extract<Command, { command: 'events' }>;
    let { after } = asked.arguments;
    let waitMs = 0;
    for (;;) {
      const command: Command = { command: 'events', arguments: { after, waitMs } };
      const response = await around.call(path, command, ANSWER_MS_MAX + waitMs);
      if (!response.ok) {
        report(around, wish.json, response.error);
        return EXIT.failed;
      }
      const { events, next } = decodeEvents(response.result);
      for (const event of events) {
        around.print(wish.json ? `${JSON.stringify(event)}\n` : formatEvent(event));
      }
      const isAll = events.length === 0;
      if (isAll && !wish.watch) return EXIT.ok;
      if (isAll) waitMs = EVENTS_WAIT_MS;
      after = next;
    }
  } catch (error) {
    if (!(error instanceof ColoError)) throw error;
    report(around, wish.json, { code: error.code, reason: describeError(error) });
    return exitCodeOf(error);
  }
}

/** Shown certificates of which one does not count now are a failure, for whoever watches them. */
async function pki(wish: PkiWish, around: Surroundings): Promise<number> {
  const json = jsonWanted(wish);
  try {
    if (wish.kind === 'show') {
      const certificates = await around.showCertificates(wish);
      const ok = certificates.every(({ state }) => state === 'valid');
      const shown = json ? `${JSON.stringify({ ok, certificates })}\n` : formatShown(certificates);
      around.print(shown);
      return ok ? EXIT.ok : EXIT.failed;
    }
    const made = await around.makeCertificate(wish);
    const text = wish.kind === 'init' ? formatInit(made) : formatIssued(wish.issue, made);
    around.print(json ? `${JSON.stringify({ ok: true, ...made })}\n` : text);
    return EXIT.ok;
  } catch (error) {
    if (!(error instanceof ColoError)) throw error;
    report(around, json, { code: error.code, reason: describeError(error) });
    return exitCodeOf(error);
  }
}

function jsonWanted(wish: PkiWish): boolean {
  switch (wish.kind) {
    case 'init':
      return wish.init.json;
    case 'issue':
      return wish.issue.json;
    case 'show':
      return wish.show.json;
  }
}

/** How long an answer may take: some commands are done before they are answered. */
function answerMs(asked: Command): number {
  switch (asked.command) {
    case 'status':
    case 'set-period':
      return ANSWER_MS_MAX;
    case 'stop':
      return STOP_MS_MAX;
    case 'capture':
      return asked.arguments.durationUs / 1000 + DEED_MS_MAX;
    default:
      return DEED_MS_MAX;
  }
}

async function compare(wish: CompareWish, around: Surroundings): Promise<number> {
  try {
    const outcome = await around.compareFiles(wish);
    around.print(
      wish.json
        ? `${JSON.stringify(comparisonJson(wish, outcome))}\n`
        : formatComparison(wish, outcome),
    );
    return isMismatched(outcome) ? EXIT.failed : EXIT.ok;
  } catch (error) {
    if (!(error instanceof ColoError)) throw error;
    report(around, wish.json, { code: error.code, reason: describeError(error) });
    return exitCodeOf(error);
  }
}

/** Errors and warnings go to stderr, one line each; what is said of whole files to stdout. */
async function checkConfig(wish: CheckConfigWish, around: Surroundings): Promise<number> {
  let files: string[];
  try {
    files = filesToCheck(wish.files, await around.list('/etc/colo'));
  } catch (error) {
    if (!(error instanceof ColoError)) throw error;
    report(around, wish.json, { code: error.code, reason: describeError(error) });
    return EXIT.configuration;
  }
  if (files.length === 0) {
    const reason = 'found no *.conf in /etc/colo, expected one; write it, or name a file';
    report(around, wish.json, { code: 'COLO_E_CONFIGURATION', reason });
    return EXIT.configuration;
  }
  const reports: FileReport[] = [];
  for (const file of files) reports.push(await around.checkConfig(file, wish.role));
  const isFine = (one: FileReport): boolean => one.findings.every(({ level }) => level !== 'error');
  if (wish.json) {
    const shown = reports.map((one) => ({ ...one, ok: isFine(one) }));
    around.print(`${JSON.stringify({ ok: reports.every(isFine), files: shown })}\n`);
  } else {
    for (const one of reports) {
      for (const { level, line } of one.findings) {
        around.complain(`colo: ${level === 'warning' ? 'warning: ' : ''}${line}\n`);
      }
      if (isFine(one)) around.print(`${one.file}: good for colo-${one.role} on this host\n`);
    }
  }
  return reports.every(isFine) ? EXIT.ok : EXIT.configuration;
}

/** Goes on through failures: a watch is for the moment when the agent comes back. */
async function watch(wish: Call, around: Surroundings): Promise<number> {
  const clear = around.isTerminal && !wish.json ? CLEAR_SCREEN : '';
  let exitCode: number = EXIT.ok;
  do {
    exitCode = await callOnce(wish, around, clear);
    if (exitCode === EXIT.usage) return exitCode;
  } while (await around.nextLook());
  return exitCode;
}

function formatResult(wish: Call, result: unknown): string {
  if (wish.command.command === 'status') {
    const status: NodeStatus = decodeStatus(result);
    return wish.json ? `${JSON.stringify(status)}\n` : formatStatus(status);
  }
  const done = decodeDone(result);
  if (wish.json) return `${JSON.stringify({ ok: true, ...done })}\n`;
  const { detail, migration } = done;
  return migration === undefined ? `${detail}\n` : `${detail}: ${movedText(migration)}\n`;
}

function report(
  around: Surroundings,
  json: boolean,
  error: { code: string; reason: string },
): void {
  const { code, reason } = error;
  if (json) around.print(`${JSON.stringify({ ok: false, code, reason })}\n`);
  else around.complain(`colo: ${reason} (${code})\n`);
}

/** The socket that is meant; with nothing said, the only one there is. */
async function findSocket(
  agent: AgentChoice,
  list: (folder: string) => Promise<string[]>,
): Promise<string> {
  if (agent.socket !== undefined) return agent.socket;
  if (agent.vm !== undefined) return `${agent.runDir}/${agent.vm}.sock`;
  const names = (await list(agent.runDir)).filter((name) => name.endsWith('.sock')).sort();
  const only = names[0];
  if (only === undefined) {
    const expected = 'expected one; start it, or name its socket with --socket or --run-dir';
    throw new AgentUnreachable(`Found no agent in ${agent.runDir}, ${expected}`);
  }
  if (names.length > 1) {
    const vms = names.slice(0, 20).map((name) => name.slice(0, -'.sock'.length));
    const message = `Found ${names.length} agents in ${agent.runDir} (${vms.join(', ')})`;
    throw new OperatorError('COLO_E_USAGE', `${message}, expected one; choose with --vm`);
  }
  return `${agent.runDir}/${only}`;
}
