/** How the primary sends an epoch: its pages in frames, its device state, its end record. */
import type { EndRecord } from '../../src/replication/index.js';
import { digestPages } from './checker.js';
import type { DeviceState } from './guest.js';
import type { Message } from './network.js';
import type { Step } from './role.js';

/** So many bytes and real pages stand behind one page of the model, for the core's thresholds. */
export const PAGE_BYTES = 1024 * 1024;
export const PAGE_COUNTS = 50;
/** Pages in one RAM frame. */
const FRAME_PAGES = 6;

/** What has been sent of the running epoch. */
export interface Sent {
  frames: number;
  pages: number;
  digest: number;
  readonly disks: { operations: number }[];
}

export function nothingSent(disks: number): Sent {
  const noneOf = Array.from({ length: disks }, () => ({ operations: 0 }));
  return { frames: 0, pages: 0, digest: 0, disks: noneOf };
}

/** Steps that send these copies of pages. */
export function shipPages(
  { epoch, copies, sent }: Copies,
  send: (message: Message) => void,
): Step[] {
  const steps: Step[] = [];
  for (let at = 0; at < copies.length; at += FRAME_PAGES) {
    const frame = copies.slice(at, at + FRAME_PAGES);
    steps.push([
      'ram',
      () => {
        sent.frames += 1;
        sent.pages += frame.length;
        sent.digest = digestPages(sent.digest, frame);
        send({ kind: 'ramPages', epoch, pages: frame });
      },
    ]);
  }
  return steps;
}

interface Copies {
  readonly epoch: number;
  readonly copies: readonly (readonly [number, number])[];
  readonly sent: Sent;
}

/** What a capture leaves to be sent after its pages. */
interface Rest {
  readonly epoch: number;
  readonly sent: Sent;
  readonly device: DeviceState;
  readonly svmRuns: boolean;
}

export function shipRest(
  { epoch, sent, device, svmRuns }: Rest,
  send: (channel: 'ram' | 'control', message: Message) => void,
): Step[] {
  const endRecord = (): EndRecord => ({
    epoch,
    ramFrames: sent.frames,
    ramPages: sent.pages,
    ramDigest: sent.digest,
    deviceStateBytes: 1,
    disks: sent.disks.map(({ operations }) => ({ operations, bytes: operations })),
    svmRuns,
    sinceResumeUs: 0,
  });
  return [
    ['device', () => send('ram', { kind: 'deviceState', epoch, device })],
    ['ramEnd', () => send('ram', { kind: 'ramEnd', epoch })],
    ['endRecord', () => send('control', { kind: 'endRecord', record: endRecord() })],
  ];
}

/** As long as the session is the one that they are for. */
export function guarded(isCurrent: () => boolean, steps: readonly Step[]): Step[] {
  return steps.map(([name, run]) => [
    name,
    () => {
      if (!isCurrent()) return false;
      run();
      return true;
    },
  ]);
}
