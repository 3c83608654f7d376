import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import test from 'ava';
import {
  advanceClock,
  checkDeviceState,
  toLoadableState,
} from '../../../src/emulator/device-state.js';
import { DEVICE_STATE_BYTES_MAX } from '../../../src/emulator/limits.js';
import { ProtocolError } from '../../../src/lib/index.js';
import { goldenPath } from '../../support/golden.js';

const saved = gunzipSync(readFileSync(goldenPath('device-state-7.2.bin.gz')));

test('the loadable state is the saved one with a configuration section behind the header', (t) => {
  const loadable = toLoadableState(saved, 'pc-i440fx-7.2');
  t.is(loadable.subarray(0, 8).toString('hex'), '5145564d00000003');
  t.is(loadable.subarray(8, 13).toString('hex'), '070000000d');
  t.is(loadable.subarray(13, 26).toString(), 'pc-i440fx-7.2');
  t.deepEqual(loadable.subarray(26), saved.subarray(8));
});

test('a state cut anywhere inside its header is refused', (t) => {
  for (let length = 0; length < 23; length++) {
    t.throws(() => checkDeviceState(saved.subarray(0, length)), { instanceOf: ProtocolError });
  }
});

test('a wrong magic, version, first section or end is refused', (t) => {
  for (const [at, value] of [
    [0, 0x52],
    [7, 4],
    [8, 0x07],
    [saved.length - 1, 1],
  ] as const) {
    const broken = Buffer.from(saved);
    broken[at] = value;
    t.throws(() => checkDeviceState(broken), { instanceOf: ProtocolError });
  }
});

test('a state of exactly the limit passes, one byte more is refused', (t) => {
  const padded = Buffer.concat([saved, Buffer.alloc(DEVICE_STATE_BYTES_MAX + 1 - saved.length)]);
  t.notThrows(() => checkDeviceState(padded.subarray(0, DEVICE_STATE_BYTES_MAX)));
  t.throws(() => checkDeviceState(padded), { instanceOf: ProtocolError });
});

test("the guest's clock is set forward, its TSC at the rate it had", (t) => {
  const state = Buffer.from(saved);
  const at = state.indexOf('timer') + 'timer'.length + 8;
  const [ticks, clockNs] = [state.readBigInt64BE(at), state.readBigInt64BE(at + 16)];
  advanceClock(state, 25_000);
  t.is(state.readBigInt64BE(at + 16), clockNs + 25_000_000n);
  const rate = Number(ticks) / Number(clockNs);
  const rateAfter = Number(state.readBigInt64BE(at)) / Number(state.readBigInt64BE(at + 16));
  t.true(Math.abs(rateAfter / rate - 1) < 1e-6);
});

test('a state whose first section is another keeps its clock', (t) => {
  const state = Buffer.from(saved);
  state.write('other', state.indexOf('timer'), 'latin1');
  const before = Buffer.from(state);
  advanceClock(state, 25_000);
  t.deepEqual(state, before);
});
