/**
 * The NIC on a real TAP and bridge. Each test runs a scenario of nic-child.ts in a network
 * namespace that lives as long as that process, and judges what it observed.
 */
import { spawnSync } from 'node:child_process';
import ava from 'ava';
import {
  GUEST_QUEUE_BYTES_MAX,
  HELD_BYTES_HARD,
  TAP_QUEUE_FRAMES,
} from '../../../src/proxy/limits.js';
import { observeInNamespace, testInNamespaces } from '../../support/namespace.js';

const test = testInNamespaces('nic-shell');
const CHILD = new URL('./nic-child.js', import.meta.url);

function observe(scenario: string): Promise<Record<string, unknown>> {
  return observeInNamespace(CHILD, scenario);
}

test('open: frames pass between guest and LAN both ways, and are shown on both seams', async (t) => {
  t.deepEqual(await observe('relay'), {
    client: ['hello', 'world'],
    guest: ['a', 'b', 'c'],
    mirrored: ['a', 'b', 'c'],
    emitted: ['hello', 'world'],
  });
});

test('holding: an epoch leaves with its commit, and nothing before', async (t) => {
  t.deepEqual(await observe('hold'), {
    beforeCommit: [],
    afterCommit: ['first', 'second'],
    end: ['first', 'second', 'third'],
    heldBefore: 3,
    heldAfter: 1,
  });
});

test('drain returns with everything the guest had written in the gate', async (t) => {
  const { counts } = await observe('drain');
  t.deepEqual(
    counts,
    Array.from({ length: 20 }, (_, round) => (round + 1) * 200),
  );
});

test('silent: no frame passes either way but what is injected', async (t) => {
  t.deepEqual(await observe('silent'), {
    guest: ['mirrored'],
    client: ['heard'],
    droppedFrames: 1,
    inboundSilentFrames: 1,
  });
});

test('frames from the LAN wait while inbound is paused', async (t) => {
  t.deepEqual(await observe('pause'), { during: [], after: ['waits'] });
});

test('what the kernel drops while inbound is paused is counted', async (t) => {
  t.deepEqual(await observe('kernelQueue'), {
    dropped: 3000 - TAP_QUEUE_FRAMES,
    sum: 3000,
    last: String(TAP_QUEUE_FRAMES - 1),
  });
});

test('what no network would carry is dropped and counted, and disturbs nothing', async (t) => {
  t.deepEqual(await observe('malformed'), {
    client: ['good'],
    lanDroppedFrames: 6,
    outputFrames: 6,
    logged: [],
  });
});

test('the end of QEMU is one log line; what it had said is heard', async (t) => {
  t.deepEqual(await observe('end'), {
    client: ['last words'],
    inboundDroppedFrames: 1,
    logged: ["The guest's port ended"],
  });
});

test('inbound is quiet once the guest has read everything, and not before', async (t) => {
  t.deepEqual(await observe('quiesce'), {
    whileUnread: false,
    onceRead: true,
    during: ['unread'],
    after: ['unread', 'waits'],
  });
});

test('frames come finished until the guest says what it takes unfinished', async (t) => {
  const finished = { frames: 4, bytes: 4 * (10 + 54) + 3500, headers: ['00'.repeat(8)] };
  const whole = { frames: 1, bytes: 10 + 54 + 3500, headers: ['0101e80322001000'] };
  t.deepEqual(await observe('offload'), {
    before: finished,
    taken: whole,
    nonsense: finished,
    logged: ['The guest gets finished frames only'],
  });
});

test('a guest that does not read costs bounded memory, and gets everything later', async (t) => {
  const { largestQueue, refused, readFrames } = await observe('guestNotReading');
  t.true((largestQueue as number) <= GUEST_QUEUE_BYTES_MAX);
  t.true((refused as number) > 0);
  t.is(readFrames, 200 * 64);
});

test('past the hard bound of held output QEMU is not read, and nothing is lost', async (t) => {
  const { heldBytes, overBound, outputFrames, waited } = await observe('backPressure');
  t.true((heldBytes as number) < HELD_BYTES_HARD + 1024 * 1024);
  t.true(overBound);
  t.true(waited);
  t.is(outputFrames, 1600);
});

test('a TAP deleted from outside is one log line, and frames are counted as dropped', async (t) => {
  t.deepEqual(await observe('tapDeleted'), { logged: ['The TAP takes no frames'] });
});

test('a link set down and up again loses only what was sent in between', async (t) => {
  t.deepEqual(await observe('linkDown'), {
    client: ['found'],
    logged: ['The TAP takes no frames'],
  });
});

test('announcements are repeated, never made while silent, and cancelled by silence', async (t) => {
  t.deepEqual(await observe('announce'), { whileSilent: 0, sent: 6 });
});

const qemu = spawnSync('qemu-system-x86_64', ['--version']);
if (qemu.error !== undefined) console.error(`nic-shell: QEMU test skipped, ${qemu.error.message}`);
const qemuTest = qemu.error === undefined ? test : ava.skip;

qemuTest("QEMU's own frames arrive, and its self-announcement is byte for byte ours", async (t) => {
  t.deepEqual(await observe('qemu'), { sameAsOurs: true, heldFrames: 2 });
});

test('stop removes the TAP and may be called again', async (t) => {
  t.deepEqual(await observe('stop'), { before: true, after: false });
});

test('what keeps a NIC from starting is named, and leaves no TAP behind', async (t) => {
  t.deepEqual(await observe('startErrors'), {
    messages: [
      'Interface colo0 exists already: stop what uses it, or choose another TAP name',
      'TAP name "a name with spaces" is not valid: 1 to 15 bytes without space, "/", ":" or "%"',
      'Bridge br9 does not exist: create it with "ip link add br9 type bridge", or name another',
      'Interface lan0 is no bridge but tun: name the bridge that leads to the clients',
    ],
  });
});

test('what comes after the end of the lease is dropped, until it is armed again', async (t) => {
  t.deepEqual(await observe('lease'), {
    client: ['in time', 'again'],
    told: 1,
    logged: ['The right to speak is over: output is dropped'],
  });
});

test('the kernel drops what a NIC writes after the end of the lease', async (t) => {
  const seen = await observe('late');
  if ('skipped' in seen) t.log(`skipped: ${seen['skipped']}`);
  else t.deepEqual(seen, { client: ['in time', 'again'], logged: [] });
});

test('a process that was stopped beyond its lease sends nothing when it goes on', async (t) => {
  t.deepEqual(await observe('stopped'), { client: ['in time'] });
});
