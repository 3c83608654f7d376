/**
 * Waits for the moment of a fault: somewhere in an epoch, each place as likely as any other, or
 * close to a step of a checkpoint. The agents' logs tell when the steps happen.
 */
import { closeSync, openSync, readSync, statSync, watch } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type { Prng } from '../../src/lib/index.js';
import { withDeadline } from '../harness/cleanup.js';
import type { PairLab } from '../harness/pair-lab.js';
import {
  type CheckpointEvent,
  type CheckpointStep,
  parseLine,
  parseLog,
  usualEpochMs,
} from './epoch-log.js';

/** A pair under load makes a checkpoint in each period; a busy machine takes longer. */
const STEP_DEADLINE_MS = 30_000;
const READ_BYTES = 65_536;
/** After a step, for those moments that are to be close to one. */
const CLOSE_MS: Readonly<Record<CheckpointStep, number>> = {
  captured: 10,
  shipped: 15,
  applied: 8,
};
/** Around the next end of an epoch, as far as it can be foreseen. */
const PAUSE_MS = { before: 20, length: 40 };

/** `part` is from 0 to 1: how far into the time that the kind allows. */
export interface Moment {
  readonly kind: 'anywhere' | 'pause' | CheckpointStep;
  readonly part: number;
}

/** Half of them anywhere, the other half close to one of the steps. */
export function drawMoment(prng: Prng): Moment {
  const kinds = ['pause', 'captured', 'shipped', 'applied'] as const;
  const kind = prng.chance(0.5) ? 'anywhere' : prng.pick(kinds);
  return { kind, part: prng.nextFloat() };
}

/** Resolves at the moment, as exactly as this process is scheduled. */
export async function waitMoment(pair: PairLab, { kind, part }: Moment): Promise<void> {
  const step = kind === 'anywhere' || kind === 'pause' ? 'captured' : kind;
  const path = pair.logPath(step === 'applied' ? 'hostb' : 'hosta');
  const epochMs = usualEpochMs(parseLog(await readFile(path, 'utf8')));
  await withDeadline(nextStep(path, step), STEP_DEADLINE_MS, `A checkpoint's "${step}"`);
  if (kind === 'anywhere') await delay(part * epochMs);
  else if (kind === 'pause') await delay(epochMs - PAUSE_MS.before + part * PAUSE_MS.length);
  else await delay(part * CLOSE_MS[kind]);
}

/** Resolves when the step is logged for the next time. */
async function nextStep(path: string, step: CheckpointStep): Promise<CheckpointEvent> {
  const file = openSync(path, 'r');
  const watcher = watch(path);
  try {
    return await new Promise((resolve, reject) => {
      let at = statSync(path).size;
      let rest = '';
      const buffer = Buffer.alloc(READ_BYTES);
      const look = (): void => {
        for (;;) {
          const bytes = readSync(file, buffer, 0, READ_BYTES, at);
          if (bytes === 0) return;
          at += bytes;
          const lines = `${rest}${buffer.toString('utf8', 0, bytes)}`.split('\n');
          rest = lines.pop() ?? '';
          const found = lines.map(parseLine).find((event) => event?.step === step);
          if (found !== undefined) resolve(found);
        }
      };
      watcher.on('change', look);
      watcher.on('error', reject);
      look();
    });
  } finally {
    watcher.close();
    closeSync(file);
  }
}
