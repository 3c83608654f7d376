/**
 * The lab of scripts/lab and the guest of scripts/build-guest, without the product: what every
 * other end-to-end test stands on. The guest runs unprotected on hosta; all talk to it comes from
 * the client's namespace. Needs root and a built guest (scripts/setup --guest).
 */
import { spawn } from 'node:child_process';
import { createHash, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { formatLine } from '../../scripts/clients/dialogue.js';
import {
  bootGuest,
  exitOf,
  LAB_SCRIPT,
  Lab,
  type PlainGuest,
  run,
  runLines,
} from './lab-harness.js';

const GUEST = '10.77.0.10';
const CONTROL_PORT = 7001;

const lab = new Lab(`g${process.pid}`);
let guest: PlainGuest;

/** Runs a command of the guest's control port and returns its reply line. */
async function control(command: string): Promise<string> {
  return (await lab.talk('connect', GUEST, CONTROL_PORT, 1, `${command}\n`)).toString().trim();
}

test.before(async (t) => {
  t.timeout(180_000);
  await lab.up();
  guest = await bootGuest(lab);
  t.log(`the guest was ready after ${guest.bootMs} ms`);
});

test.after.always('nothing is left', async (t) => {
  await guest?.destroy();
  await lab.down();
  t.deepEqual(await lab.namespaces(), []);
});

test.serial('the guest is ready within 20 seconds', (t) => {
  t.true(guest.bootMs <= 20_000, `${guest.bootMs} ms`);
});

test.serial('the guest answers ping over IPv4 and IPv6', async (t) => {
  for (const address of [GUEST, 'fd77::10']) {
    await t.notThrowsAsync(lab.exec('client', 'ping', '-q', '-c', '3', '-i', '0.2', address));
  }
});

test.serial('nginx serves the file whose digest the manifest names', async (t) => {
  const response = await lab.talk('fetch', GUEST, 80, 'GET /file HTTP/1.0\r\n\r\n');
  const head = response.indexOf('\r\n\r\n');
  t.regex(response.toString('latin1', 0, head), /^HTTP\/1\.1 200 /);
  const body = response.subarray(head + 4);
  t.is(body.length, 1 << 20);
  t.is(createHash('sha256').update(body).digest('hex'), guest.fileSha256);
});

test.serial('nginx serves the page over TLS with the certificate of the build', async (t) => {
  const answer = await lab.talk('tls', GUEST, 443, 'GET /index.html HTTP/1.0\r\n\r\n');
  const pem = await readFile(join(guest.files, 'tls-certificate.pem'));
  const [fingerprint, status] = answer.toString('latin1').split(/\r?\n/);
  t.is(fingerprint, new X509Certificate(pem).fingerprint256);
  t.regex(status ?? '', /^HTTP\/1\.1 200 /);
});

test.serial('DNS answers a long TXT whole where there is room, else truncated', async (t) => {
  const [size = 0, truncated, records] = (await lab.talk('txt', GUEST, 'long.colo.test', 4096))
    .toString()
    .split(' ')
    .map(Number);
  t.true(size > 2 * 1480, `${size} bytes are more than two fragments hold`);
  t.deepEqual([truncated, records], [0, 4]);
  const short = (await lab.talk('txt', GUEST, 'long.colo.test', 512)).toString().split(' ');
  t.true(Number(short[0]) <= 512);
  t.is(short[1], '1');
});

test.serial('ssh is dropbear', async (t) => {
  t.regex((await lab.talk('connect', GUEST, 22, 1)).toString(), /^SSH-2\.0-dropbear/);
});

test.serial('redis returns what was set', async (t) => {
  const replies = await lab.talk('connect', GUEST, 6379, 3, 'SET key value\r\nGET key\r\n');
  t.deepEqual(replies.toString().split('\n').slice(0, 3), ['+OK', '$5', 'value']);
});

test.serial('a stream counts from 0 without a gap, one line every 20 ms', async (t) => {
  const startMs = performance.now();
  const lines = (await lab.talk('connect', GUEST, 7000, 51)).toString().trim().split('\n');
  const spanMs = performance.now() - startMs;
  t.deepEqual(
    lines,
    Array.from({ length: 51 }, (_, index) => `${index} ${index * 20}`),
  );
  // The process that talks takes some time to start and to end.
  t.true(spanMs >= 1000 && spanMs < 3500, `50 intervals took ${spanMs} ms`);
});

test.serial('the sink answers how many bytes it got', async (t) => {
  t.is((await lab.talk('pour', GUEST, 7002, 'x'.repeat(100_000))).toString(), '100000\n');
});

test.serial('UDP echo returns the datagram', async (t) => {
  const script = `exec 3<>/dev/udp/${GUEST}/7003; printf hello >&3; timeout 10 head -c 5 <&3`;
  t.is((await lab.exec('client', 'bash', '-c', script)).toString(), 'hello');
});

test.serial('UDP random never answers the same twice', async (t) => {
  const script = `exec 3<>/dev/udp/${GUEST}/7004; for i in 1 2; do printf x >&3; timeout 10 head -c 32 <&3; done`;
  const answers = await lab.exec('client', 'bash', '-c', script);
  t.is(answers.length, 64);
  t.notDeepEqual(answers.subarray(0, 32), answers.subarray(32));
});

test.serial('UDP random remembers what it answered, and to which question', async (t) => {
  const script = `exec 3<>/dev/udp/${GUEST}/7004; for i in 7 8; do printf "ask $i" >&3; timeout 10 head -c 66 <&3; echo; done`;
  const answers = (await lab.exec('client', 'bash', '-c', script)).toString().trim().split('\n');
  t.is(answers.length, 2);
  for (const [i, answer] of answers.entries()) {
    const [id, hex] = answer.split(' ');
    t.is(id, String(7 + i));
    t.is(await control(`answered ${id}`), `ok ${hex}`);
  }
  t.is(await control('answered 9'), 'ok');
});

test.serial('a dialogue is echoed; what is wrong is refused and counted', async (t) => {
  const totals = async (): Promise<string[]> => {
    const text = await control('conversations');
    return /lines=(\d+) wrong=(\d+) broken=(\d+)/.exec(text)?.slice(1) ?? [];
  };
  const before = (await totals()).map(Number);
  const first = formatLine(5, 0, 'one');
  const second = formatLine(5, 1, 'x'.repeat(3000));
  const answer = await lab.talk(
    'connect',
    GUEST,
    7005,
    5,
    [...[first, second, first, formatLine(6, 2, ''), formatLine(5, 2, 'z').replace('z', 'y')]].join(
      '',
    ),
  );
  t.is(answer.toString(), `${first}${second}${'wrong 2\n'.repeat(3)}`);
  const after = (await totals()).map(Number);
  t.deepEqual([(after[0] ?? 0) - (before[0] ?? 0), (after[1] ?? 0) - (before[1] ?? 0)], [2, 3]);
});

test.serial('the guest opens a dialogue and asks', async (t) => {
  const listener = lab.spawnTalk('listen', 9001, 1);
  const ended = exitOf(listener);
  let output = '';
  listener.stdout?.on('data', (bytes: Buffer) => {
    output += bytes.toString();
  });
  await once(listener.stdout ?? listener, 'data');
  t.is(await control('converse 77 fd77::1 9001 20077'), 'ok');
  t.is(await ended, 0);
  const [, line = ''] = output.trim().split('\n');
  t.is(line.split(' ')[0], '77');
  t.is(`${line}\n`, formatLine(77, 0, line.split(' ')[2] ?? ''));
});

test.serial('the guest dials a client and both directions count', async (t) => {
  const listener = lab.spawnTalk('listen', 9000, 20);
  const ended = exitOf(listener);
  let output = '';
  listener.stdout?.on('data', (bytes: Buffer) => {
    output += bytes.toString();
  });
  await once(listener.stdout ?? listener, 'data');
  t.is(await control('dial 10.77.0.1 9000'), 'ok');
  t.is(await ended, 0);
  const numbers = output
    .trim()
    .split('\n')
    .slice(1)
    .map((line) => Number(line.split(' ')[0]));
  t.deepEqual(
    numbers,
    Array.from({ length: 20 }, (_, index) => index),
  );
  const report = /^ok open=\d sent=(\d+) received=(\d+) gaps=0$/.exec(await control('dialled'));
  t.true(Number(report?.[1]) >= 20, 'sent');
  t.true(Number(report?.[2]) > 0, 'received');
});

test.serial('exec returns exit code and output of a guest command', async (t) => {
  const [word, code, output] = (await control('exec echo out; echo err >&2; exit 3')).split(' ');
  t.deepEqual([word, code], ['ok', '3']);
  t.is(Buffer.from(output ?? '', 'base64').toString(), 'out\nerr\n');
});

test.serial('what diskload wrote verifies after it was stopped', async (t) => {
  t.is(await control('diskload 4'), 'ok');
  await control('exec sleep 1');
  const [, synced] = /^ok synced=(\d+)$/.exec(await control('diskload off')) ?? [];
  const [, highest] = /^ok highest=(\d+)$/.exec(await control('diskload verify')) ?? [];
  t.true(Number(synced) > 0);
  t.true(Number(highest) >= Number(synced));
});

test.serial('memory loads and the disk bench answer', async (t) => {
  t.regex(await control('burst 16'), /^ok ms=\d+$/);
  t.is(await control('scribble 10 8'), 'ok');
  t.is(await control('scribble off'), 'ok');
  t.regex(await control('disk rand 1 4'), /^ok read=[\d.]+ write=[\d.]+ unit=ops\/s$/);
});

test.serial('a command that does not exist or a number out of range is refused', async (t) => {
  for (const command of ['what', 'scribble 0 8', 'burst 100000', 'dial nobody 80']) {
    t.regex(await control(command), /^error /, command);
  }
});

test.serial('the guest uses the time stamp counter as its clock', async (t) => {
  const path = '/sys/devices/system/clocksource/clocksource0/current_clocksource';
  const [, , output] = (await control(`exec cat ${path}`)).split(' ');
  t.is(
    Buffer.from(output ?? '', 'base64')
      .toString()
      .trim(),
    'tsc',
  );
});

test.serial('after poweroff the guest ends QEMU and its disk is clean', async (t) => {
  t.is(await control('poweroff'), 'ok');
  t.is(await guest.exited, 0);
  await t.notThrowsAsync(run('e2fsck', ['-fn', guest.image]));
});

test('two labs live side by side', async (t) => {
  const other = new Lab(`o${process.pid}`);
  t.teardown(() => other.down());
  await other.up();
  await t.notThrowsAsync(other.exec('client', 'ping', '-q', '-c', '1', '10.77.0.3'));
  await t.notThrowsAsync(other.exec('hostb', 'ping', '-q', '-c', '1', '10.88.0.1'));
  t.is((await other.namespaces()).length, 4);
  t.is((await lab.namespaces()).length, 4);
});

test('down ends the processes inside and removes every namespace', async (t) => {
  const other = new Lab(`d${process.pid}`);
  t.teardown(() => other.down());
  await other.up();
  const sleeper = other.spawn(
    'hostb',
    'bash',
    '-c',
    'trap "" TERM; echo up; while true; do sleep 1; done',
  );
  const ended = exitOf(sleeper);
  await once(sleeper.stdout ?? sleeper, 'data');
  await other.down();
  t.is(await ended, 'SIGKILL');
  t.deepEqual(await other.namespaces(), []);
  await t.notThrowsAsync(other.down(), 'a second down');
});

test('run hands on the exit code and removes the lab', async (t) => {
  const child = spawn(LAB_SCRIPT, ['run', '--', 'bash', '-c', 'echo $COLO_LAB_ID; exit 7'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = exitOf(child);
  const [id] = (await once(child.stdout, 'data')) as [Buffer];
  t.is(await ended, 7);
  t.deepEqual(await new Lab(id.toString().trim()).namespaces(), []);
});

test('run that gets SIGTERM ends its command and removes the lab', async (t) => {
  const child = spawn(
    LAB_SCRIPT,
    ['run', '--', 'bash', '-c', 'echo $COLO_LAB_ID; exec sleep 600'],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  const ended = exitOf(child);
  const [id] = (await once(child.stdout, 'data')) as [Buffer];
  child.kill('SIGTERM');
  t.is(await ended, 143);
  t.deepEqual(await new Lab(id.toString().trim()).namespaces(), []);
});

test('a lab whose owner was killed is removed by the next up', async (t) => {
  const id = `k${process.pid}`;
  const script = `"${LAB_SCRIPT}" up --id ${id}; echo up; exec sleep 600`;
  const owner = spawn('bash', ['-c', script], { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = exitOf(owner);
  await once(owner.stdout, 'data');
  t.is((await new Lab(id).namespaces()).length, 4);
  owner.kill('SIGKILL');
  await ended;
  const next = new Lab(`n${process.pid}`);
  t.teardown(() => next.down());
  await next.up();
  t.deepEqual(await new Lab(id).namespaces(), []);
});

test('a wrong id, node or command exits with 64', async (t) => {
  for (const args of [['up', '--id', 'A_B'], ['exec', 'hostz', '--', 'true'], ['dance']]) {
    const error = await t.throwsAsync(run(LAB_SCRIPT, args));
    t.is((error as Error & { code?: number }).code, 64, args.join(' '));
  }
});

test('status names a lab that is up', async (t) => {
  const lines = await runLines(LAB_SCRIPT, ['status']);
  t.true(lines.some((line) => line.startsWith(`${lab.id} up owner=${process.pid} `)));
});
