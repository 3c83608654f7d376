/** `colo migrate` and its companions: what is asked of the agent, and what is shown meanwhile. */
import test from 'ava';
import { parseColoArguments } from '../../../src/cli/colo-arguments.js';
import { decodeCommand } from '../../../src/cli/control-wire.js';
import { migrationText } from '../../../src/cli/status-text.js';
import type { MigrationStatus } from '../../../src/config/index.js';

const PLACE = {
  version: '9.9.9',
  captureFolder: () => '/none',
  absolute: (path: string) => `/here/${path}`,
};

async function asked(...argv: string[]): Promise<unknown> {
  const wish = await parseColoArguments(argv, PLACE);
  if (wish.kind === 'usage') return wish.message;
  return wish.kind === 'call' ? wish.command : wish.kind;
}

const USUAL = {
  to: { host: '10.0.0.3', port: 7800 },
  method: 'precopy',
  background: true,
  bytesPerSecondMax: null,
  downtimeLimitUs: 100_000,
  autoConverge: false,
  compress: 'auto',
  recoverTimeoutUs: 60_000_000,
};

test('migrate takes a host and has safe defaults', async (t) => {
  t.deepEqual(await asked('migrate', '10.0.0.3'), { command: 'migrate', arguments: USUAL });
});

test('migrate takes every option', async (t) => {
  const argv = ['migrate', '[fd00::3]:7900', '--hybrid', '--no-background', '--max-bandwidth'];
  const more = ['100MiB', '--downtime-limit', '30ms', '--auto-converge', '--recover-timeout', '5s'];
  more.push('--compress', 'off');
  t.deepEqual(await asked(...argv, ...more), {
    command: 'migrate',
    arguments: {
      to: { host: 'fd00::3', port: 7900 },
      method: 'hybrid',
      background: false,
      bytesPerSecondMax: 100 * 1024 ** 2,
      downtimeLimitUs: 30_000,
      autoConverge: true,
      compress: 'off',
      recoverTimeoutUs: 5_000_000,
    },
  });
});

test('migrate refuses what makes no sense, and says what it expected', async (t) => {
  const refusals: [string[], RegExp][] = [
    [['migrate'], /Not enough non-option arguments|expected/],
    [['migrate', 'a b'], /^host: found "a b"/],
    [['migrate', 'b', '--postcopy', '--hybrid'], /expected one/],
    [['migrate', 'b', '--no-background'], /expected --postcopy or --hybrid/],
    [['migrate', 'b', '--max-bandwidth', '1KiB'], /^--max-bandwidth: found "1KiB"/],
    [['migrate', 'b', '--downtime-limit', '0s'], /^--downtime-limit: /],
    [['migrate', 'b', '--compress', 'zip'], /^--compress: found "zip"/],
    [['migrate', 'b', '--downtime-limit', '1s', '--downtime-limit', '2s'], /given twice/],
    [['migrate-finish'], /from/],
    [['migrate-recover', '--to', ':1'], /^--to: /],
  ];
  for (const [argv, pattern] of refusals) t.regex(String(await asked(...argv)), pattern);
});

test('the companions of migrate ask for what they say', async (t) => {
  t.deepEqual(await asked('migrate-cancel'), { command: 'migrate-cancel', arguments: {} });
  t.deepEqual(await asked('migrate-recover'), {
    command: 'migrate-recover',
    arguments: { to: null },
  });
  t.deepEqual(await asked('migrate-recover', '--to', 'b:9'), {
    command: 'migrate-recover',
    arguments: { to: { host: 'b', port: 9 } },
  });
  t.deepEqual(await asked('migrate-finish', '--from', 'x'), {
    command: 'migrate-finish',
    arguments: { file: '/here/x' },
  });
});

test('an agent takes only addresses and values that could have been typed', (t) => {
  const ask = (change: object) =>
    decodeCommand({ id: 1, command: 'migrate', arguments: { ...USUAL, ...change } }).ok;
  t.true(ask({}));
  t.false(ask({ to: { host: '-rf', port: 7800 } }));
  t.false(ask({ to: { host: '10.0.0.3', port: 0 } }));
  t.false(ask({ method: 'teleport' }));
  t.false(ask({ bytesPerSecondMax: 1 }));
  t.false(ask({ downtimeLimitUs: 0 }));
  t.false(ask({ more: 1 }));
  const finish = (file: string) =>
    decodeCommand({ id: 1, command: 'migrate-finish', arguments: { file } }).ok;
  t.true(finish('/a'));
  t.false(finish('a'));
  t.false(finish('/a\0b'));
});

test('progress is one line that tells what matters now', (t) => {
  const status: MigrationStatus = {
    direction: 'outgoing',
    peer: '10.0.0.3:7800',
    method: 'precopy',
    state: 'precopy',
    round: 2,
    doneBytes: 50,
    totalBytes: 100,
    sentBytes: 1024 ** 2,
    bytesPerSecond: 2048,
    remainingMs: 1500,
    throttlePercent: 20,
    downtimeMs: null,
    faults: null,
    problem: null,
  };
  t.is(
    migrationText(status),
    '[###############...............]  50 %  precopy to 10.0.0.3:7800, precopy, round 2, ' +
      '1.0 MiB at 2.0 KiB/s, guest slowed down by 20 %, some 2 s left',
  );
  const after = {
    ...status,
    direction: 'incoming' as const,
    round: 0,
    throttlePercent: 0,
    remainingMs: null,
    downtimeMs: 31.2,
    faults: { count: 12, p50Us: 210, p99Us: 1900 },
    problem: 'The link is lost',
  };
  t.regex(
    migrationText(after),
    /from 10\.0\.0\.3:7800, .*downtime 31 ms, 12 faults, p50 0\.21 ms, p99 1\.90 ms, The link/,
  );
});

test('what an operator decides takes no arguments', async (t) => {
  for (const command of ['migrate-force', 'migrate-release'] as const) {
    t.deepEqual(await asked(command), { command, arguments: {} });
    t.deepEqual(decodeCommand({ id: 1, command, arguments: {} }), {
      ok: true,
      command: { command, arguments: {} },
    });
    t.false(decodeCommand({ id: 1, command, arguments: { yes: true } }).ok);
  }
});
