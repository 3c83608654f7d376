/** `colo compare` on real files: what is wrong with them, and what the agent's comparer finds. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { compareFiles } from '../../../src/cli/compare-files.js';
import { runColo } from '../../../src/cli/index.js';
import { encodeVerdictLine, type VerdictLine } from '../../../src/proxy/capture/verdict-wire.js';
import { ACK, FIN, FLOW_V4, PSH, SYN, tcpFrame } from '../../support/packets.js';
import { temporaryFolder } from '../../support/temporary.js';
import { golden, pcapFile } from '../proxy/capture/support.js';

interface Run {
  code: number;
  out: string;
  err: string;
}

/** Runs `colo compare` on files; progress and interruption are the caller's. */
async function run(
  argv: readonly string[],
  watch: { onProgress?: (done: number, total: number) => void; signal?: AbortSignal } = {},
): Promise<Run> {
  const result: Run = { code: -1, out: '', err: '' };
  const nothing = async (): Promise<never> => {
    throw new Error('No agent is asked');
  };
  const { onProgress = () => {}, signal = new AbortController().signal } = watch;
  result.code = await runColo(['compare', ...argv], {
    version: '0',
    isTerminal: false,
    print: (text) => {
      result.out += text;
    },
    complain: (text) => {
      result.err += text;
    },
    captureFolder: () => '/none',
    absolute: (path) => path,
    compareFiles: (wish) => compareFiles(wish, { onProgress, signal }),
    call: nothing,
    list: nothing,
    checkConfig: nothing,
    makeCertificate: async () => {
      throw new Error('No certificate is made in this file');
    },
    showCertificates: async () => [],
    planDiscard: nothing,
    carryOutDiscard: nothing,
    confirm: nothing,
    onInterrupt: () => () => undefined,
    nextLook: nothing,
  });
  return result;
}

function folderWith(t: ExecutionContext, files: Record<string, Buffer | string>) {
  const folder = temporaryFolder(t);
  for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content);
  return (name: string): string => join(folder, name);
}

const EMPTY = pcapFile([]);
const ANY = pcapFile([{ timeUs: 5, bytes: Buffer.alloc(60, 3) }]);

test('a file that is no capture is told by name, exit 65', async (t) => {
  const cut = pcapFile([{ timeUs: 1, bytes: Buffer.alloc(60) }]);
  cut.writeUInt32LE(1500, 36);
  const other = Buffer.from(EMPTY);
  other.writeUInt32LE(113, 20);
  const path = folderWith(t, {
    good: EMPTY,
    empty: '',
    text: 'Dear diary, today I',
    gzip: Buffer.from('1f8b0800', 'hex'),
    half: golden('capture-us.pcap').subarray(0, 500),
    cut,
    cooked: Buffer.concat([other, pcapFile([{ timeUs: 1, bytes: Buffer.alloc(60) }]).subarray(24)]),
  });
  mkdirSync(path('folder'));
  const reasons: Record<string, RegExp> = {
    missing: /: Found no such file, expected a capture/,
    folder: /: Found a folder, expected a capture file/,
    empty: /: The file is empty/,
    text: /: The file begins with 44656172, expected the magic of pcap or pcapng/,
    gzip: /: The file is compressed with gzip/,
    half: /: The file is cut: it ends in record/,
    cut: /: Frame 1 is cut to 60 of 1500 bytes; capture whole frames, with tcpdump -s 0/,
    cooked: /: Frame 1 has link type 113, expected 1, Ethernet/,
  };
  for (const [name, reason] of Object.entries(reasons)) {
    for (const argv of [
      [path(name), path('good')],
      [path('good'), path(name)],
      [path('good'), path('good'), '--inbound', path(name)],
    ]) {
      const { code, out, err } = await run(argv);
      t.is(code, 65, name);
      t.is(out, '');
      t.regex(err, reason);
      t.true(err.startsWith(`colo: ${path(name)}: `), err);
      t.regex(err, /^[^\n]+ \(COLO_E_CAPTURE_FILE\)\n$/);
    }
  }
  const json = await run([path('text'), path('good'), '--json']);
  t.is(json.err, '');
  t.like(JSON.parse(json.out), { ok: false, code: 'COLO_E_CAPTURE_FILE' });
});

test('a verdicts file that is none is told, and one beside the capture is found', async (t) => {
  const first: VerdictLine = { kind: 'capture', version: 1, nic: 0, epoch: 3, timeUs: 1 };
  const frames = { primary: 0, secondary: 0, inbound: 0 };
  const start: VerdictLine = { kind: 'edge', edge: 'start', epoch: 4, timeUs: 2, frames };
  const good = [first, start].map(encodeVerdictLine).join('');
  const path = folderWith(t, {
    'primary.pcap': ANY,
    'secondary.pcap': ANY,
    'verdicts.jsonl': `${good}{"kind":"fra`,
    json: '{"kind":"edge"}\n',
    text: 'hello\n',
    late: encodeVerdictLine(start) + encodeVerdictLine(first),
    nothing: '',
  });
  const files = [path('primary.pcap'), path('secondary.pcap')];
  const found = JSON.parse((await run([...files, '--json'])).out);
  t.like(found, { verdicts: path('verdicts.jsonl'), cutOff: true, epochs: 1 });
  const without = JSON.parse((await run([...files, '--json', '--verdicts', 'none'])).out);
  t.like(without, { verdicts: null, epochs: 1 });
  const reasons = {
    missing: /Found no such file/,
    json: /is none of ours \(timeUs: /,
    text: /is not JSON/,
    late: /Found a line of kind edge, expected a capture's first/,
    nothing: /has no whole line/,
  };
  for (const [name, reason] of Object.entries(reasons)) {
    const { code, err } = await run([...files, '--verdicts', path(name)]);
    t.is(code, 65, name);
    t.regex(err, reason);
  }
});

test('an interrupt ends it with 130', async (t) => {
  const path = folderWith(t, { a: ANY });
  const { code, out, err } = await run([path('a'), path('a')], { signal: AbortSignal.abort() });
  t.deepEqual([code, out], [130, '']);
  t.is(err, 'colo: Interrupted before the end (COLO_E_INTERRUPTED)\n');
});

test('progress goes from nothing to everything', async (t) => {
  const frames = Array.from({ length: 2_000 }, (_, index) => ({
    timeUs: index * 10,
    bytes: Buffer.alloc(1_000, 3),
  }));
  const bytes = pcapFile(frames);
  const path = folderWith(t, { a: bytes, b: bytes });
  const seen: number[] = [];
  const totals = new Set<number>();
  const onProgress = (done: number, total: number): void => {
    seen.push(done);
    totals.add(total);
  };
  const { code } = await run([path('a'), path('b')], { onProgress });
  t.is(code, 0);
  t.deepEqual([...totals], [2 * bytes.length]);
  t.true(seen.length > 10);
  t.deepEqual(
    seen,
    [...seen].sort((a, b) => a - b),
  );
  t.is(seen.at(-1), 2 * bytes.length);
});

/** What a guest says in one connection, with an initial sequence number of its own. */
function serverSays(isn: number, pieces: readonly string[], startUs = 1_000_000) {
  const flow = FLOW_V4;
  const ack = 5_001;
  const say = (timeUs: number, seq: number, flags: number, text = '') => ({
    timeUs,
    bytes: tcpFrame(flow, true, { seq: (isn + seq) >>> 0, ack, flags, payload: Buffer.from(text) }),
  });
  const frames = [say(startUs, 0, SYN | ACK)];
  let seq = 1;
  for (const [index, text] of pieces.entries()) {
    frames.push(say(startUs + 2_000 * (index + 1), seq, PSH | ACK, text));
    seq += text.length;
  }
  frames.push(say(startUs + 2_000 * (pieces.length + 1), seq, FIN | ACK));
  return frames;
}

test('guests that say the same with numbers and segments of their own are equal', async (t) => {
  const path = folderWith(t, {
    primary: pcapFile(serverSays(100, ['HTTP/1.1 200 OK', 'content'])),
    secondary: pcapFile(serverSays(0xffff_fff8, ['HTTP/1.1', ' 200 OKcon', 'tent'])),
  });
  for (const split of [[], ['--split']]) {
    const { code, out } = await run([path('primary'), path('secondary'), '--json', ...split]);
    t.is(code, 0);
    t.like(JSON.parse(out), {
      ok: true,
      mismatched: false,
      frames: { primary: 4, secondary: 5, inbound: 0 },
      releasedFrames: 4,
      heldFrames: 0,
      openedFlows: 1,
      flows: [],
      mismatches: [],
    });
  }
});

test('one byte that differs is found at its offset, and is not released', async (t) => {
  const path = folderWith(t, {
    primary: pcapFile(serverSays(100, ['HTTP/1.1 200 OK', 'content'])),
    secondary: pcapFile(serverSays(200, ['HTTP/1.1', ' 200 OKcon', 'Tent'])),
  });
  const human = await run([path('primary'), path('secondary')]);
  t.is(human.code, 1);
  t.regex(human.out, /^Released {9}2 frames of the primary$/m);
  t.regex(human.out, /^ {3}tcp 10\.0\.0\.2:80 - 10\.0\.0\.9:40000, data at offset 18$/m);
  t.regex(human.out, /^ {3}primary {4}74 65 6e 74 +tent$/m);
  t.regex(human.out, /^ {3}secondary {2}54 65 6e 74 +Tent$/m);
  const outs = new Set<string>();
  for (const split of [[], ['--split']]) {
    const { code, out } = await run([path('primary'), path('secondary'), '--json', ...split]);
    t.is(code, 1);
    const { mismatches, flows } = JSON.parse(out);
    outs.add(JSON.stringify(mismatches));
    t.is(mismatches.length, 1);
    t.like(mismatches[0], { reason: 'divergence', kind: 'data', offset: 18 });
    t.like(flows[0], { mismatches: 1, heldFrames: 2 });
  }
  t.is(outs.size, 1);
});

test('what the secondary never says is a time-out, if it may take so long', async (t) => {
  const path = folderWith(t, {
    primary: pcapFile(serverSays(100, ['one', 'two'])),
    secondary: pcapFile(serverSays(200, ['one', 'two'], 1_300_000)),
  });
  const files = [path('primary'), path('secondary')];
  const soon = await run([...files, '--json']);
  t.is(soon.code, 1);
  t.like(JSON.parse(soon.out), { reasons: { divergence: 0, timeout: 1 } });
  const late = await run([...files, '--json', '--compare-timeout', '400ms']);
  t.is(late.code, 0);
});

test('epochs of a capture are compared one by one', async (t) => {
  const path = folderWith(t, {
    'primary.pcap': pcapFile([
      ...serverSays(100, ['before the first edge'], 1_000_000),
      ...serverSays(100, ['one', 'two'], 2_000_000),
      // Not the same numbers again: that would be a retransmission.
      ...serverSays(700_000, ['one', 'two'], 3_000_000),
    ]),
    'secondary.pcap': pcapFile([
      ...serverSays(200, ['one', 'TWO'], 2_000_100),
      ...serverSays(900_000, ['one'], 3_000_100).slice(0, 2),
    ]),
    'verdicts.jsonl': (
      [
        { kind: 'capture', version: 1, nic: 0, epoch: 7, timeUs: 1 },
        edge('close', 7, 1_500_000, [3, 0]),
        edge('start', 8, 1_900_000, [3, 0]),
        edge('close', 8, 2_500_000, [7, 4]),
        edge('start', 9, 2_600_000, [7, 4]),
      ] satisfies VerdictLine[]
    )
      .map(encodeVerdictLine)
      .join(''),
  });
  const { code, out } = await run([path('primary.pcap'), path('secondary.pcap'), '--json']);
  t.is(code, 1);
  const report = JSON.parse(out);
  t.like(report, { epochs: 2, skippedFrames: 3, releasedFrames: 4, heldFrames: 2 });
  t.like(report, { undecidedFrames: 2, reasons: { divergence: 1, timeout: 0, bound: 0 } });
  t.like(report.mismatches[0], { epoch: 8, kind: 'data', offset: 3 });
});

function edge(
  kind: 'close' | 'start',
  epoch: number,
  timeUs: number,
  [primary = 0, secondary = 0]: number[],
): VerdictLine {
  return { kind: 'edge', edge: kind, epoch, timeUs, frames: { primary, secondary, inbound: 0 } };
}

test('a golden capture equals itself, whole and split at every frame', async (t) => {
  const path = folderWith(t, {
    us: golden('capture-us.pcap'),
    ns: golden('capture-ns.pcap'),
  });
  for (const split of [[], ['--split']]) {
    const { code, out } = await run([path('us'), path('ns'), '--json', ...split]);
    t.is(code, 0);
    t.like(JSON.parse(out), { releasedFrames: 12, heldFrames: 0 });
  }
});
