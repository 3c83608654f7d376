import { Duplex } from 'node:stream';
import test from 'ava';
import { QMP_PENDING_MAX } from '../../../src/emulator/limits.js';
import { QmpClient } from '../../../src/emulator/qmp-client-shell.js';
import { silentLog } from '../../support/emulator-subjects.js';

const GREETING =
  '{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": []}}\r\n';

/** QEMU's end: `answer` sees each command and may `say` something. */
class FakeQemu extends Duplex {
  readonly commands: string[] = [];
  readonly #answer: (command: string, id: number, qemu: FakeQemu) => void;

  constructor(answer: (command: string, id: number, qemu: FakeQemu) => void = () => undefined) {
    super();
    this.#answer = answer;
  }

  say(text: string): void {
    this.push(Buffer.from(text));
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    const { execute, id } = JSON.parse(chunk.toString()) as { execute: string; id: number };
    this.commands.push(execute);
    done();
    this.#answer(execute, id, this);
  }
}

function client(stream: Duplex, commandDeadlineMs = 10_000): QmpClient {
  return new QmpClient({ stream, log: silentLog, commandDeadlineMs, lineBytesMax: 1000 });
}

test('start greets, negotiates and tells the version', async (t) => {
  const qemu = new FakeQemu((_command, id, self) => self.say(`{"return": {}, "id": ${id}}\n`));
  const qmp = client(qemu);
  qemu.say(GREETING);
  t.is(await qmp.start(), '7.2.22');
  t.deepEqual(qemu.commands, ['qmp_capabilities']);
});

test('answers find their command in whatever order they come', async (t) => {
  const qemu = new FakeQemu((_command, id, self) => {
    if (id === 2) self.say('{"return": "b", "id": 2}\n{"return": "a", "id": 1}\n');
  });
  const qmp = client(qemu);
  t.deepEqual(await Promise.all([qmp.execute('first'), qmp.execute('second')]), ['a', 'b']);
});

test('an error has the text of QEMU, and the client goes on', async (t) => {
  const qemu = new FakeQemu((command, id, self) => {
    const answer =
      command === 'bad' ? '"error": {"class": "GenericError", "desc": "no"}' : '"return": 1';
    self.say(`{${answer}, "id": ${id}}\n`);
  });
  const qmp = client(qemu);
  await t.throwsAsync(qmp.execute('bad'), { code: 'COLO_E_QEMU', message: 'bad: no' });
  t.is(await qmp.execute('good'), 1);
});

for (const [what, text] of [
  ['a garbage greeting', 'SSH-2.0-OpenSSH_9.2\r\n'],
  ['an endless line', 'x'.repeat(2000)],
  ['an answer nobody asked for', '{"return": {}, "id": 77}\n'],
  ['an answer without id', '{"return": {}}\n'],
  ['two greetings', GREETING + GREETING],
] as const) {
  test(`${what} fails all commands, now and later, with a ProtocolError`, async (t) => {
    const qemu = new FakeQemu();
    const qmp = client(qemu);
    const pending = qmp.execute('stop');
    qemu.say(text);
    await t.throwsAsync(pending, { code: 'COLO_E_PROTOCOL' });
    await t.throwsAsync(qmp.execute('cont'), { code: 'COLO_E_PROTOCOL' });
    t.true(qemu.destroyed);
  });
}

test('a QEMU that does not greet or answer is given up at the deadline', async (t) => {
  await t.throwsAsync(client(new FakeQemu(), 20).start(), {
    message: /did not greet within 20 ms/,
  });
  const qmp = client(new FakeQemu(), 20);
  await t.throwsAsync(qmp.execute('stop'), { message: 'QEMU did not answer stop within 20 ms' });
  await t.throwsAsync(qmp.execute('cont'), { code: 'COLO_E_QEMU' });
});

test('a closed stream fails what is under way', async (t) => {
  const qemu = new FakeQemu();
  const qmp = client(qemu);
  const pending = qmp.execute('stop');
  qemu.push(null);
  await t.throwsAsync(pending, { code: 'COLO_E_QEMU', message: /QEMU (ended|closed) QMP/ });
});

test('more commands than the bound are refused, the others stay', async (t) => {
  const qemu = new FakeQemu();
  const qmp = client(qemu);
  const pending = Array.from({ length: QMP_PENDING_MAX }, () => qmp.execute('stop'));
  await t.throwsAsync(qmp.execute('cont'), { message: /under way already/ });
  pending.map((_, i) => qemu.say(`{"return": ${i}, "id": ${i + 1}}\n`));
  t.is((await Promise.all(pending)).length, QMP_PENDING_MAX);
});

test('a command that ends with an event waits for it, even if it comes before the answer', async (t) => {
  const qemu = new FakeQemu((_command, id, self) => {
    self.say(`{"event": "OTHER"}\n{"event": "DONE"}\n{"return": {}, "id": ${id}}\n`);
  });
  const seen: string[] = [];
  const qmp = client(qemu);
  qmp.onEvent((event) => seen.push(event.name));
  await qmp.executeUntil('go', {}, (event) => event.name === 'DONE');
  t.deepEqual(seen, ['OTHER', 'DONE']);
});

test('a command that is refused does not wait for its event', async (t) => {
  const qemu = new FakeQemu((_command, id, self) => {
    self.say(`{"error": {"class": "GenericError", "desc": "no"}, "id": ${id}}\n`);
  });
  await t.throwsAsync(
    client(qemu).executeUntil('go', {}, () => true),
    { message: 'go: no' },
  );
});

test('a command whose event never comes is given up at the deadline', async (t) => {
  const qemu = new FakeQemu((_command, id, self) => self.say(`{"return": {}, "id": ${id}}\n`));
  const qmp = client(qemu, 20);
  await t.throwsAsync(
    qmp.executeUntil('go', {}, () => false),
    { code: 'COLO_E_QEMU', message: 'go did not end within 20 ms' },
  );
  await t.throwsAsync(qmp.execute('cont'), { code: 'COLO_E_QEMU' });
});
