import { PassThrough } from 'node:stream';
import test from 'ava';
import { createLogger } from '../../../src/cli/index.js';

function start(format: 'text' | 'json', level: 'debug' | 'info' = 'info') {
  const output = new PassThrough();
  const logger = createLogger({
    host: 'hostA',
    vm: 'web',
    role: 'secondary',
    level,
    format,
    output,
  });
  const lines = async (): Promise<string[]> => {
    await logger.close();
    return (output.read() as Buffer | null)?.toString().trimEnd().split('\n') ?? [];
  };
  return { logger, lines };
}

test('a text line names time, level, host, VM, role and epoch', async (t) => {
  const { logger, lines } = start('text');
  logger.setContext({ role: 'primary', epoch: 12 });
  logger.warn('The peer is lost', { silentMs: 503, peer: '10.0.0.2:7800', why: 'no "beat"' });
  const [line = ''] = await lines();
  t.regex(line, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z warn hostA\/web primary epoch=12 The /);
  t.true(line.endsWith(' The peer is lost silentMs=503 peer=10.0.0.2:7800 why="no \\"beat\\""'));
});

test('a json line has the same, and a field of a taken name is renamed', async (t) => {
  const { logger, lines } = start('json');
  logger.info('Started', { host: 'liar', level: 'x', pages: 3, big: 5n, error: new Error('no') });
  const [line = ''] = await lines();
  const { time, ...rest } = JSON.parse(line) as Record<string, unknown>;
  t.is(typeof time, 'string');
  t.deepEqual(rest, {
    level: 'info',
    host: 'hostA',
    vm: 'web',
    role: 'secondary',
    epoch: 0,
    message: 'Started',
    'field.host': 'liar',
    'field.level': 'x',
    pages: 3,
    big: '5',
    error: 'no',
  });
});

test('a line about another epoch names that one, once', async (t) => {
  const { logger, lines } = start('text');
  logger.info('Committed', { epoch: 5 });
  const [line = ''] = await lines();
  t.true(line.endsWith(' hostA/web secondary Committed epoch=5'));
});

test('nothing that is logged can start a line of its own', async (t) => {
  for (const format of ['text', 'json'] as const) {
    const { logger, lines } = start(format);
    logger.info('a\nb\u2028', { 'x\ny': 'c\nd\x1b[2J', deep: { e: 'f\n' } });
    const all = await lines();
    t.is(all.length, 1, format);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
    t.notRegex(all[0] ?? '', /[\u0000-\u001f\u2028]/);
  }
});

test('lines below the level are not written', async (t) => {
  const { logger, lines } = start('text');
  logger.debug('quiet');
  t.deepEqual(await lines(), []);
  const loud = start('text', 'debug');
  loud.logger.debug('heard');
  t.is((await loud.lines()).length, 1);
});

test('close waits for every line', async (t) => {
  const { logger, lines } = start('json');
  for (let index = 0; index < 50; index += 1) logger.info('line', { index });
  const all = await lines();
  t.is(all.length, 50);
  await logger.close();
});
