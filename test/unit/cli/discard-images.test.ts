/** `colo discard-image` finds the images of a VM as its agents do. */
import fs from 'node:fs';
import path from 'node:path';
import test from 'ava';
import type { DiscardWish } from '../../../src/cli/colo-arguments.js';
import { carryOutDiscard, planDiscard } from '../../../src/cli/discard-images.js';
import { temporaryDirectory } from '../blockrep/support.js';

const WISH: DiscardWish = {
  vm: 'web',
  disk: undefined,
  stateDir: undefined,
  config: undefined,
  image: undefined,
  yes: true,
  json: false,
};

/** A host with these files; folders have the names of their files. */
function hostWith(files: Record<string, string>) {
  return {
    hostname: 'here',
    readFile: (file: string) => {
      const text = files[file];
      return text === undefined ? undefined : Buffer.from(text);
    },
    list: async (folder: string) =>
      Object.keys(files)
        .filter((file) => path.dirname(file) === folder)
        .map((file) => path.basename(file)),
  };
}

const SECONDARY = 'vm = web\nhost = rack1\nlisten = 10.0.0.2\ndisk = root=/images/root.img\n';

test('the images are those of the configuration and of the records', async (t) => {
  const host = hostWith({
    '/etc/colo/a.conf': SECONDARY,
    '/etc/colo/b.conf': 'vm = db\nlisten = 10.0.0.2\n',
    '/etc/colo/broken.conf': 'nonsense',
    '/var/lib/colo/web.root.generation': '',
    '/var/lib/colo/web.data.generation': '',
    '/var/lib/colo/web.data.generation.discarded-2026': '',
    '/var/lib/colo/db.data.generation': '',
  });
  t.deepEqual(await planDiscard(WISH, host), {
    vm: 'web',
    host: 'rack1',
    stateDir: '/var/lib/colo',
    disks: [
      { name: 'root', path: '/images/root.img' },
      { name: 'data', path: '/var/lib/colo/web-data.img' },
    ],
  });
  const one = await planDiscard({ ...WISH, disk: 'logs', stateDir: '/state' }, host);
  t.is(one.stateDir, '/state');
  t.deepEqual(one.disks, [{ name: 'logs', path: '/var/lib/colo/web-logs.img' }]);
});

test("a primary's configuration does as well, and a service's is known by its name", async (t) => {
  const lines = 'peer = 10.0.0.2\ndisk = name=root,path=/i/r.qcow2,format=qcow2\n';
  const readOnly = 'disk = name=iso,path=/i/iso,readonly=on\n';
  const host = hostWith({ '/etc/colo/web.conf': `${lines}${readOnly}` });
  const plan = await planDiscard(WISH, host);
  t.deepEqual(plan.disks, [{ name: 'root', path: '/i/r.qcow2', format: 'qcow2' }]);
});

test('what is not clear is refused with what to do', async (t) => {
  const two = hostWith({ '/etc/colo/a.conf': SECONDARY, '/etc/colo/b.conf': SECONDARY });
  await t.throwsAsync(planDiscard(WISH, two), { message: /a\.conf, .*b\.conf.*--config/ });
  await t.throwsAsync(planDiscard(WISH, hostWith({})), { message: /no configuration.*--config/ });
  const none = hostWith({ '/etc/colo/a.conf': 'vm = web\nlisten = 10.0.0.2\n' });
  await t.throwsAsync(planDiscard(WISH, none), { message: /found no disk of web.*--disk/ });
  await t.throwsAsync(planDiscard({ ...WISH, config: '/etc/colo/missing' }, none), {
    name: 'OperatorError',
  });
});

test('an image is given up with the record that it had kept', async (t) => {
  const directory = temporaryDirectory(t);
  const image = path.join(directory, 'image');
  fs.writeFileSync(image, Buffer.alloc(4096, 1));
  const wish = { ...WISH, disk: 'root', image, stateDir: directory };
  const plan = await planDiscard(wish, hostWith({}));
  const [first] = await carryOutDiscard(plan);
  t.like(first, { disk: 'root', image, kept: null });
  const [second] = await carryOutDiscard(plan);
  t.true(fs.existsSync(second?.kept ?? ''));
  t.true(fs.readFileSync(image).equals(Buffer.alloc(4096, 1)), 'the image is as it was');
  const nowhere = { ...plan, stateDir: path.join(directory, 'missing') };
  await t.throwsAsync(carryOutDiscard(nowhere), { message: /disk root can't be written/ });
});
