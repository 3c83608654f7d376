/** What a guest does with itself: it reboots, panics, powers off, protected. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import test from 'ava';
import type { GuestControl } from '../../scripts/harness/guest-control.js';
import type { PairLab } from '../../scripts/harness/pair-lab.js';
import { EventReader } from './event-reader.js';
import { controlGuest, withPair } from './pair-harness.js';

const run = promisify(execFile);

/**
 * What the guest's kernel would do with a driver for it (QEMU docs/specs/pvpanic.txt): bit 0 at port
 * 0x505. The test guest has neither that driver nor /dev/port, so this is a program of its own.
 */
const PANIC_CODE = Buffer.from(
  [
    ...['b8ac000000', 'bf03000000', '0f05'], // iopl(3)
    ...['66ba0505', 'b001', 'ee'], // mov dx, 0x505; mov al, 1; out dx, al
    ...['b83c000000', '31ff', '0f05'], // exit(0)
  ].join(''),
  'hex',
);
const PANIC =
  `exec echo ${elfProgram(PANIC_CODE).toString('base64')} | base64 -d >/root/panic; ` +
  'chmod 700 /root/panic; /root/panic';

/** Tells the guest to do what it does not answer to any more. */
async function tell(pair: PairLab, command: string): Promise<void> {
  const guest: GuestControl = controlGuest(pair);
  await guest.command('sync');
  guest.command(command).catch(() => undefined);
  // Gone once the guest is: the reader below waits for what comes of it.
  setTimeout(() => guest.close(), 5_000).unref();
}

for (const mode of ['colo', 'checkpoint'] as const) {
  test(`a guest that reboots stays protected, and a failover after it works (${mode})`, async (t) => {
    await withPair(t, { mode }, async (pair) => {
      const reader = new EventReader(pair, 'hosta');
      for (const count of [1, 2]) {
        await tell(pair, 'exec echo b > /proc/sysrq-trigger');
        const resets = () => reader.events.filter(({ what }) => what === 'reset');
        await reader.until(`reset ${count}`, () => resets().length >= count);
        await pair.waitGuest();
        await pair.waitProtected();
      }
      t.is((await pair.status('hosta')).role, 'primary');
      t.deepEqual(
        reader.events.filter(({ to }) => to === 'alone' || to === 'leaving').slice(1),
        [],
        'it was protected all the time',
      );
      reader.close();
      await pair.kill('hosta');
      await pair.waitStatus('hostb', 'hostb took over', ({ role }) => role === 'primary');
      await pair.waitGuest();
    });
  });
}

test('a guest that panics is reset, on both hosts', async (t) => {
  await withPair(t, {}, async (pair) => {
    const reader = new EventReader(pair, 'hosta');
    await tell(pair, PANIC);
    const panic = await reader.until('a panic', ({ what }) => what === 'panic');
    t.regex(panic.reason, /on-guest-panic = reset/);
    await reader.until('a reset', ({ what }) => what === 'reset');
    await pair.waitGuest();
    await pair.waitProtected();
    await pair.kill('hosta');
    await pair.waitStatus('hostb', 'hostb took over', ({ role }) => role === 'primary');
    await pair.waitGuest();
    reader.close();
  });
});

test('a guest that panics may end instead, and is not failed over', async (t) => {
  await withPair(t, { primaryFlags: ['--on-guest-panic', 'poweroff'] }, async (pair) => {
    await tell(pair, PANIC);
    t.is(await pair.ended('hosta'), 0);
    const left = await pair.waitStatus('hostb', 'it waits', ({ state }) => state === 'waiting');
    t.regex(left.lastFailure ?? '', /The guest ended: The guest panicked/);
  });
});

test('nobody but the agent reaches QEMU: it listens nowhere', async (t) => {
  await withPair(t, {}, async (pair) => {
    for (const host of ['hosta', 'hostb'] as const) {
      const [enter = '', ...rest] = pair.lab[host].enter;
      const { stdout } = await run(enter, [
        ...rest,
        'ss',
        '-H',
        '-l',
        '-p',
        '-x',
        '-t',
        '-u',
        '-0',
      ]);
      t.true(stdout.includes('users:'), 'ss tells who listens');
      const listeners = stdout.split('\n').filter((line) => line.includes('"qemu'));
      // Its NIC is a packet socket; those receive frames, nobody connects to them.
      t.deepEqual(
        listeners.filter((line) => !line.startsWith('p_')),
        [],
      );
    }
  });
});

/** The smallest x86_64 ELF program: its header, one segment, the code (elf(5)). */
function elfProgram(code: Buffer): Buffer {
  const base = 0x400000n;
  const headerBytes = 64 + 56;
  const header = Buffer.alloc(headerBytes);
  header.write('7f454c46020101', 'hex');
  header.writeUInt16LE(2, 16); // ET_EXEC
  header.writeUInt16LE(62, 18); // EM_X86_64
  header.writeUInt32LE(1, 20);
  header.writeBigUInt64LE(base + BigInt(headerBytes), 24); // entry
  header.writeBigUInt64LE(64n, 32); // program headers
  header.writeUInt16LE(64, 52);
  header.writeUInt16LE(56, 54);
  header.writeUInt16LE(1, 56);
  header.writeUInt32LE(1, 64); // PT_LOAD
  header.writeUInt32LE(5, 68); // readable, executable
  header.writeBigUInt64LE(base, 80);
  header.writeBigUInt64LE(base, 88);
  const length = BigInt(headerBytes + code.length);
  header.writeBigUInt64LE(length, 96);
  header.writeBigUInt64LE(length, 104);
  header.writeBigUInt64LE(0x1000n, 112);
  return Buffer.concat([header, code]);
}
