/** What befalls the world of speech-world.ts: drawn from a seed, or one fault alone. */
import { Prng } from '../../../src/lib/index.js';
import { type NodeName, type Party, World, type WorldOptions } from './speech-world.js';

const MS = 1_000;
const SECOND = 1_000_000;

/** When the weather ends. */
const HEAL_AT_US = 40 * SECOND;
/** By when a healed world must be in order: stopped processes, restarts, leases, a session. */
const ORDER_AT_US = HEAL_AT_US + 90 * SECOND;

const FAULTS = [
  'cut',
  'witness',
  'pause',
  'hang',
  'crash',
  'mistake',
  'yield',
  'weather',
  'lan',
] as const;
type Fault = (typeof FAULTS)[number];

const PARTIES: readonly (readonly [Party, Party])[] = [
  ['a', 'b'],
  ['b', 'a'],
  ['a', 'w'],
  ['w', 'a'],
  ['b', 'w'],
  ['w', 'b'],
];

export function drawOptions(prng: Prng): WorldOptions {
  const promiseUs = prng.pick([100 * MS, 300 * MS, 500 * MS, 2 * SECOND]);
  return {
    promiseUs,
    heartbeatUs: Math.floor(promiseUs / prng.pick([4, 6, 10])),
    ttlUs: prng.pick([2, 5, 10]) * SECOND,
    driftPart: 0.001,
  };
}

/** One seed: a random subset of faults, safety throughout, order in the end. */
export function runSeed(seed: number): World {
  const prng = new Prng(seed);
  const world = new World(prng, drawOptions(prng));
  const faults = FAULTS.filter(() => prng.chance(0.5));
  const meanUs = prng.pick([200 * MS, SECOND, 5 * SECOND]);
  let atUs = prng.nextInt(0, 4 * SECOND);
  while (atUs < HEAL_AT_US && faults.length > 0) {
    const fault = prng.pick(faults);
    world.at(atUs, () => strike(world, fault));
    atUs += prng.nextInt(1, 2 * meanUs);
  }
  watchOver(world);
  world.runUntil(HEAL_AT_US);
  heal(world);
  world.runUntil(ORDER_AT_US);
  expectOrder(world);
  return world;
}

function strike(world: World, fault: Fault): void {
  const { prng } = world;
  const node = world.nodes[prng.pick<NodeName>(['a', 'b'])];
  const forUs = prng.pick([50 * MS, 300 * MS, SECOND, 6 * SECOND, 20 * SECOND]);
  const lastsUs = prng.nextInt(1, forUs);
  switch (fault) {
    case 'cut': {
      const [from, to] = prng.pick(PARTIES);
      const wires = prng.chance(0.5) ? [world.wire(from, to)] : bothWays(world, from, to);
      world.trace(`cut ${from} ${to} (${wires.length}) for ${lastsUs}`);
      for (const wire of wires) wire.cut = true;
      world.at(world.nowUs + lastsUs, () => {
        for (const wire of wires) wire.cut = false;
      });
      return;
    }
    case 'witness':
      world.trace(`witness down for ${lastsUs}`);
      world.witnessUp = false;
      world.at(world.nowUs + lastsUs, () => {
        world.witnessUp = true;
      });
      return;
    case 'pause':
      node.pause(lastsUs);
      return;
    case 'hang':
      node.hungSinceUs ??= node.clockUs;
      world.at(world.nowUs + lastsUs, () => {
        node.hungSinceUs = undefined;
      });
      return;
    case 'crash':
      node.crash();
      return;
    case 'mistake':
      // Whoever starts it thinks that it is the primary.
      node.crash();
      node.boot('primary');
      return;
    case 'yield':
      node.deliver(() => node.yield());
      return;
    case 'weather': {
      const [from, to] = prng.pick(PARTIES);
      const wire = world.wire(from, to);
      wire.lossPart = prng.pick([0, 0.05, 0.3]);
      wire.delayUs = prng.pick([100, 2 * MS, 40 * MS, 300 * MS]);
      // A request may be carried out long after its sender has given it up.
      wire.latePart = prng.pick([0, 0.05, 0.3]);
      return;
    }
    case 'lan':
      node.input({ kind: 'lan', reachable: false });
      world.at(world.nowUs + lastsUs, () => node.input({ kind: 'lan', reachable: true }));
      return;
  }
}

function bothWays(world: World, from: Party, to: Party) {
  return [world.wire(from, to), world.wire(to, from)];
}

/**
 * The operator: starts again what is down, the last speaker as a primary. If both nodes run and
 * neither holds the guest, one of them must be started as a primary: the last speaker.
 */
function watchOver(world: World): void {
  world.at(world.nowUs + world.prng.nextInt(200 * MS, 3 * SECOND), () => {
    for (const node of [world.nodes.a, world.nodes.b]) {
      if (node.guard === undefined) {
        node.boot(world.lastSpeaker === node.name ? 'primary' : 'secondary');
      }
    }
    const last = world.nodes[world.lastSpeaker];
    const idle = [last, last.other].every(({ guard }) => guard?.state.kind === 'bystander');
    if (idle && !last.isPaused) {
      last.crash();
      last.boot('primary');
    }
    watchOver(world);
  });
}

function heal(world: World): void {
  world.trace('heal');
  world.witnessUp = true;
  for (const wire of world.wires.values()) {
    wire.cut = false;
    wire.lossPart = 0;
    wire.latePart = 0;
    wire.delayUs = 500;
  }
  for (const node of [world.nodes.a, world.nodes.b]) {
    node.hungSinceUs = undefined;
    node.input({ kind: 'lan', reachable: true });
  }
}

function expectOrder(world: World): void {
  const { a, b } = world.nodes;
  const speaker = a.canShow ? a : b;
  if (!speaker.canShow) world.fail('Nobody speaks in a healed world');
  const other = speaker.other.guard?.state.kind;
  if (other !== 'standby') world.fail(`The speaker's peer is ${other} in a healed world`);
  if (speaker.guard?.isWitnessed) world.fail('The speaker of a healthy pair keeps the grant');
}

/** One fault alone, in a pair that was protected before. */
export type SingleFault =
  | 'kill primary'
  | 'kill secondary'
  | 'stop primary'
  | 'stop secondary'
  | 'hang primary'
  | 'witness down'
  | 'witness cut from primary'
  | 'witness cut from secondary'
  | 'link cut'
  | 'link cut to secondary'
  | 'link cut to primary';

/** The longest time without a speaker from the fault on, and who speaks 20 s later. */
export function runSingle(seed: number, fault: SingleFault) {
  const prng = new Prng(seed);
  const options = { ...drawOptions(prng), ttlUs: 5 * SECOND };
  const world = new World(prng, options);
  world.runUntil(10 * SECOND + prng.nextInt(0, SECOND));
  if (world.nodes.b.guard?.state.kind !== 'standby') world.fail('There is no protected pair');
  world.longestSilenceUs = 0;
  inflict(world, fault);
  world.runUntil(world.nowUs + 20 * SECOND);
  const { a, b } = world.nodes;
  const speaker = a.canShow ? 'a' : b.canShow ? 'b' : 'nobody';
  return { options, speaker, silenceUs: world.longestSilenceUs, world };
}

function inflict(world: World, fault: SingleFault): void {
  const { a, b } = world.nodes;
  const cut = (...wires: { cut: boolean }[]): void => {
    for (const wire of wires) wire.cut = true;
  };
  switch (fault) {
    case 'kill primary':
      a.crash();
      return;
    case 'kill secondary':
      b.crash();
      return;
    case 'stop primary':
      a.pause(1000 * SECOND);
      return;
    case 'stop secondary':
      b.pause(1000 * SECOND);
      return;
    case 'hang primary':
      a.hungSinceUs = a.clockUs;
      return;
    case 'witness down':
      world.witnessUp = false;
      return;
    case 'witness cut from primary':
      cut(...bothWays(world, 'a', 'w'));
      return;
    case 'witness cut from secondary':
      cut(...bothWays(world, 'b', 'w'));
      return;
    case 'link cut':
      cut(...bothWays(world, 'a', 'b'));
      return;
    case 'link cut to secondary':
      cut(world.wire('a', 'b'));
      return;
    case 'link cut to primary':
      cut(world.wire('b', 'a'));
      return;
  }
}
