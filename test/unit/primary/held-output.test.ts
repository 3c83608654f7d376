/** What a session leaves in the records, whatever became of it. */
import test from 'ava';
import { HeldOutput } from '../../../src/primary/held-output-shell.js';

function start() {
  const done: string[] = [];
  const held = new HeldOutput({
    guest: {
      network: { open: () => done.push('open'), release: () => done.push('release') },
      disks: {
        async beginAlone() {
          done.push('beginAlone');
        },
      },
    } as unknown as ConstructorParameters<typeof HeldOutput>[0]['guest'],
    onDiskFailed: () => undefined,
    isLeaving: () => false,
  });
  return { held, done };
}

test('a first synchronisation that failed leaves a host that went on alone', async (t) => {
  const { held, done } = start();
  held.peering();
  held.sessionOver();
  await held.open();
  t.deepEqual(done, ['beginAlone', 'open']);
});

test('without a peer nothing is to be written down', async (t) => {
  const { held, done } = start();
  held.sessionOver();
  await held.open();
  t.deepEqual(done, ['open']);
});

test('a session that commits goes on in the generation of the one before', async (t) => {
  const { held, done } = start();
  held.peering();
  held.sessionOver();
  held.peering();
  t.true(await held.release(7));
  held.sessionOver();
  await held.open();
  t.deepEqual(done, ['release', 'beginAlone', 'open']);
});
