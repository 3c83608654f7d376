import {
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { encodeBatch } from '../../../../src/proxy/batch-wire.js';
import { CaptureFileDecoder } from '../../../../src/proxy/capture/capture-decoder.js';
import { CaptureFiles, runCapture } from '../../../../src/proxy/capture/capture-shell.js';
import { type CaptureTap, captureFileName } from '../../../../src/proxy/capture/capture-writer.js';
import { decodeVerdictLine } from '../../../../src/proxy/capture/verdict-wire.js';
import { temporaryFolder } from '../../../support/temporary.js';
import { decodeAll } from './support.js';

const FRAME = Buffer.from('00112233445566778899aabb0800aa', 'hex');
const OPTIONS = { durationUs: 600_000_000, nic: 0, bytesMax: 1 << 30 };
const NAMES = ['inbound.pcap', 'primary.pcap', 'secondary.pcap', 'verdicts.jsonl'];

/** A data path that can be captured, and what it did with the tap. */
class FakePath {
  tap: CaptureTap | undefined;
  detached = 0;
  readonly attached: Promise<CaptureTap>;
  readonly point = {
    vnetBytes: 0,
    epoch: 7,
    attach: (tap: CaptureTap) => {
      this.tap = tap;
      this.#onAttached(tap);
      return () => {
        this.detached += 1;
      };
    },
  };
  #onAttached: (tap: CaptureTap) => void = () => {};

  constructor() {
    this.attached = new Promise((resolve) => {
      this.#onAttached = resolve;
    });
  }
}

function framesOf(dir: string, side: 'primary' | 'secondary' | 'inbound') {
  return decodeAll(new CaptureFileDecoder(), [readFileSync(join(dir, captureFileName(side)))]);
}

function linesOf(dir: string) {
  const text = readFileSync(join(dir, 'verdicts.jsonl'), 'utf8');
  return text.trimEnd().split('\n').map(decodeVerdictLine);
}

function folder(t: ExecutionContext): string {
  return join(temporaryFolder(t), 'capture');
}

test('a capture leaves four whole files that nobody else may read', async (t) => {
  const dir = folder(t);
  const path = new FakePath();
  const stop = new AbortController();
  const done = runCapture({ ...OPTIONS, dir }, path.point, stop.signal);
  const tap = await path.attached;
  const batch = encodeBatch([FRAME, FRAME]);
  for (let round = 0; round < 500; round++) {
    tap.frame('primary', batch, 1000 + round);
    tap.frame('secondary', batch, 1000 + round);
    tap.verdict('primary', batch, 0, 'release');
    if (round % 100 === 0) tap.edge('close', 7 + round / 100, 1000 + round);
  }
  tap.frame('inbound', encodeBatch([FRAME]), 2000);
  stop.abort();
  const result = await done;
  t.is(path.detached, 1);
  const bytes = NAMES.reduce((sum, name) => sum + statSync(join(dir, name)).size, 0);
  const counts = '1000 primary, 1000 secondary, 1 inbound';
  t.deepEqual(result, {
    ok: true,
    detail: `Captured frames: ${counts}; ${bytes} bytes in ${dir}; ended by stop`,
  });
  t.deepEqual(readdirSync(dir).sort(), NAMES);
  for (const name of NAMES) t.is(statSync(join(dir, name)).mode & 0o777, 0o600, name);
  t.is(framesOf(dir, 'primary').length, 1000);
  t.is(framesOf(dir, 'secondary').length, 1000);
  t.is(framesOf(dir, 'inbound').length, 1);
  const lines = linesOf(dir);
  t.like(lines[0], { kind: 'capture', version: 1, epoch: 7 });
  t.is(lines.filter(({ kind }) => kind === 'frame').length, 500);
  t.is(lines.filter(({ kind }) => kind === 'edge').length, 5);
  t.like(lines.at(-1), { kind: 'end', reason: 'stop' });
  // What comes late is nobody's.
  tap.frame('primary', batch, 3000);
  tap.verdict('primary', batch, 0, 'hold');
  tap.edge('close', 99, 3000);
});

test('times are those of the wall clock', async (t) => {
  const dir = folder(t);
  const path = new FakePath();
  const stop = new AbortController();
  const beforeUs = Date.now() * 1000;
  const done = runCapture({ ...OPTIONS, dir }, path.point, stop.signal);
  const tap = await path.attached;
  tap.frame('primary', encodeBatch([FRAME]), Number(process.hrtime.bigint() / 1000n));
  stop.abort();
  await done;
  const [frame] = framesOf(dir, 'primary');
  const afterUs = Date.now() * 1000;
  t.true(frame !== undefined && frame.timeUs >= beforeUs - 2000 && frame.timeUs <= afterUs + 2000);
});

test('a capture ends when its time is over', async (t) => {
  const dir = folder(t);
  const result = await runCapture({ ...OPTIONS, dir, durationUs: 1_000 }, new FakePath().point);
  t.like(result, { ok: true });
  t.like(linesOf(dir).at(-1), { kind: 'end', reason: 'duration' });
});

test('a capture ends when its files are full', async (t) => {
  const dir = folder(t);
  const path = new FakePath();
  const done = runCapture({ ...OPTIONS, dir, bytesMax: 10_000 }, path.point);
  const tap = await path.attached;
  const batch = encodeBatch([Buffer.alloc(1500, 1)]);
  for (let round = 0; round < 20; round++) tap.frame('primary', batch, 1000 + round);
  t.like(await done, { ok: true });
  t.is(framesOf(dir, 'primary').length, 6);
  t.like(linesOf(dir).at(-1), { kind: 'end', reason: 'max-bytes' });
});

test('what is there is never overwritten, nor written through', async (t) => {
  for (const name of NAMES) {
    const dir = folder(t);
    mkdirSync(dir);
    const precious = join(dir, 'precious');
    writeFileSync(precious, 'precious');
    symlinkSync(precious, join(dir, name));
    const path = new FakePath();
    const result = await runCapture({ ...OPTIONS, dir }, path.point);
    t.like(result, { ok: false, code: 'COLO_E_CAPTURE' });
    t.regex(result.ok ? '' : result.reason, /could not begin: EEXIST.*file already exists/);
    t.is(readFileSync(precious, 'utf8'), 'precious');
    t.deepEqual(readdirSync(dir).sort(), [name, 'precious'].sort());
    t.is(path.tap, undefined);
  }
});

test('a folder that cannot be made is told', async (t) => {
  const dir = folder(t);
  writeFileSync(dir, 'a file');
  const result = await runCapture({ ...OPTIONS, dir }, new FakePath().point);
  t.like(result, { ok: false, code: 'COLO_E_CAPTURE' });
});

test('a full disk ends the capture, not the agent', async (t) => {
  const dir = folder(t);
  const files = await CaptureFiles.create({
    ...{ dir, nic: 0, bytesMax: 1 << 30, vnetBytes: 0, epoch: 0 },
    openFile: async () => ({
      write: async () => {
        throw Object.assign(new Error('No space left on device'), { code: 'ENOSPC' });
      },
      close: async () => {},
    }),
  });
  files.tap.frame('primary', encodeBatch([FRAME]), 1000);
  await files.finished;
  t.is(files.endReason, 'a write error');
  files.tap.frame('primary', encodeBatch([FRAME]), 1001);
  await t.throwsAsync(files.close('a write error'), { code: 'ENOSPC' });
});

test('a slow disk holds nobody up, and what it costs is told', async (t) => {
  const dir = folder(t);
  let go: () => void = () => {};
  const blocked = new Promise<void>((resolve) => {
    go = resolve;
  });
  const written = new Map<string, Buffer[]>();
  const path = new FakePath();
  const stop = new AbortController();
  const done = runCapture({ ...OPTIONS, dir }, path.point, stop.signal, {
    queueBytesMax: 10_000,
    openFile: async (name) => ({
      write: async (piece, from) => {
        await blocked;
        written.set(name, [...(written.get(name) ?? []), Buffer.from(piece.subarray(from))]);
        return { bytesWritten: piece.length - from };
      },
      close: async () => {},
    }),
  });
  const tap = await path.attached;
  const batch = encodeBatch([Buffer.alloc(984, 1)]);
  for (let round = 0; round < 50; round++) tap.frame('primary', batch, 1000 + round);
  stop.abort();
  go();
  const result = await done;
  const primary = written.get(join(dir, 'primary.pcap')) ?? [];
  const frames = decodeAll(new CaptureFileDecoder(), primary).length;
  t.is(frames, 9);
  t.regex(result.ok ? result.detail : '', /; 41 frames were left out, the disk was too slow$/);
});
