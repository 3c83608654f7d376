import test from 'ava';
import {
  encodeNotice,
  lookEveryMs,
  serviceStatus,
  watchdogUs,
} from '../../../src/cli/service-notice.js';
import { fullStatus } from '../../support/fake-node.js';

test('a notice is one line for each thing that is told', (t) => {
  const all = { ready: true, stopping: true, watchdog: true, status: 'fine' } as const;
  t.is(encodeNotice(all)?.toString(), 'READY=1\nSTOPPING=1\nSTATUS=fine\nWATCHDOG=1\n');
  t.is(encodeNotice({ watchdog: false, status: undefined }), undefined);
});

test('a status can not make up lines of its own and is bounded', (t) => {
  const text = encodeNotice({ status: `a\nREADY=1\r${'x'.repeat(500)}` })?.toString() ?? '';
  t.true(text.startsWith('STATUS=a READY=1 x'));
  t.is(text.split('\n').length, 2);
  t.is(text.length, 'STATUS=\n'.length + 200);
});

test('the watchdog is meant for a process that it names, or for whoever has it', (t) => {
  t.is(watchdogUs({ WATCHDOG_USEC: '3000000', WATCHDOG_PID: '7' }, 7), 3_000_000);
  t.is(watchdogUs({ WATCHDOG_USEC: '3000000' }, 7), 3_000_000);
  t.is(watchdogUs({ WATCHDOG_USEC: '3000000', WATCHDOG_PID: '8' }, 7), undefined);
  for (const text of ['', '0', '-1', '1e6', '1.5', 'x', '9'.repeat(16)]) {
    t.is(watchdogUs({ WATCHDOG_USEC: text }, 7), undefined, text);
  }
  t.is(watchdogUs({}, 7), undefined);
});

test('a sign is given three times in each interval, and never in a busy loop', (t) => {
  t.is(lookEveryMs(600_000), 200);
  t.is(lookEveryMs(60_000_000), 1_000);
  t.is(lookEveryMs(1), 1);
  t.is(lookEveryMs(undefined), 1_000);
});

test('the status names role, state, mode and peer', (t) => {
  const status = { ...fullStatus(), role: 'primary', state: 'running', mode: 'colo' } as const;
  const peer = { address: '10.0.0.2:7800', state: 'connected', lastHeardMs: 1 } as const;
  const expected = 'primary, running, mode colo, peer 10.0.0.2:7800 connected';
  t.is(serviceStatus({ ...status, peer }), expected);
});
