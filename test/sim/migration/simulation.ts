/**
 * One seed of a migration: both cores with simulated shells, guest, network, operator and faults.
 *
 * Phase 1 injects what the seed has drawn; the rules are checked all along. Phase 2 stops that,
 * brings the network back (or not), restarts a killed destination, lets an operator do what the
 * runbook says, and demands an end: one guest, with the RAM that it wrote.
 */
import { PAGE_SIZE_BYTES, Prng } from '../../../src/lib/index.js';
import type {
  DestinationSection,
  HelloSection,
  SourceInput,
  SourceSection,
} from '../../../src/migration/index.js';
import { type TraceLine, World } from '../world.js';
import { SimGuest, Violation } from './guest.js';
import { SimLink } from './link.js';
import { type Breakage, type Command, drawOptions, type MigrationSimOptions } from './options.js';
import { SimDestination } from './sim-destination.js';
import { type SimFiles, SimSource } from './sim-source.js';

export interface MigrationResult {
  readonly ok: boolean;
  /** How it ended, or the rule that was broken and where. */
  readonly detail: string;
  readonly options: MigrationSimOptions;
  readonly events: number;
}

const SECOND_US = 1_000_000;
const PHASE_1_US = 30 * SECOND_US;
const PHASE_2_US = 600 * SECOND_US;
/** Then an operator cancels what does not converge. */
const PATIENCE_UNTIL_US = PHASE_1_US + 30 * SECOND_US;
const OPERATOR_US = 2 * SECOND_US;

export function runMigrationSeed(parts: {
  readonly seed: number;
  readonly breakage?: Breakage | undefined;
  readonly sink?: (line: TraceLine) => void;
}): MigrationResult {
  const { seed, breakage, sink } = parts;
  const options = drawOptions(new Prng(seed));
  const world = new World(seed, sink);
  try {
    const simulation = new MigrationSimulation(world, options, breakage);
    return { ok: true, detail: simulation.run(), options, events: world.events };
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    const bug = error instanceof Violation ? '' : `${error.name}: `;
    const where = error instanceof Violation ? '' : ` ${error.stack?.split('\n')[1] ?? ''}`;
    return { ok: false, detail: `${bug}${error.message}${where}`, options, events: world.events };
  }
}

class MigrationSimulation {
  readonly #world: World;
  readonly #options: MigrationSimOptions;
  readonly #breakage: Breakage | undefined;
  readonly #guest: SimGuest;
  readonly #files: SimFiles;
  readonly #hello: HelloSection;
  readonly #source: SimSource;
  #destination: SimDestination;
  readonly #link: SimLink;
  #settling = false;
  #forced = false;
  #destinationDied = false;

  constructor(world: World, options: MigrationSimOptions, breakage: Breakage | undefined) {
    this.#world = world;
    this.#options = options;
    this.#breakage = breakage;
    this.#guest = new SimGuest(world, options);
    this.#files = { backup: undefined, image: this.#oldImage() };
    this.#hello = {
      kind: 'hello',
      migration: world.seed.toString(16).padStart(32, '0'),
      vm: 'guest',
      host: 'a',
      qemuVersion: '7.2',
      machineType: 'pc-q35-7.2',
      cpuModel: 'qemu64',
      accelerator: 'tcg',
      pageSizeBytes: PAGE_SIZE_BYTES,
      ramSizeBytes: options.pages * PAGE_SIZE_BYTES,
      choices: {
        mode: options.mode,
        background: options.background,
        compression: 'none',
        assisted: options.image !== 'none',
      },
      disks: [],
      nics: [{ mac: '52:54:00:00:00:01', bridge: 'br0' }],
      definitionJson: '{}',
    };
    const link = (): SimLink => this.#link;
    this.#source = new SimSource({
      world,
      options,
      hello: this.#hello,
      guest: this.#guest,
      files: this.#files,
      breakage,
      link,
      neverThere: () => this.#neverThere(),
    });
    this.#destination = this.#newDestination(undefined);
    this.#link = new SimLink(world, options, {
      source: {
        alive: () => this.#source.host.alive,
        section: (session, section) => this.#source.section(session, section as DestinationSection),
        disksMoved: () => {},
        lost: (session, reason) => this.#source.lost(session, reason),
      },
      destination: {
        alive: () => this.#destination.host.alive,
        section: (session, section) => this.#destination.section(session, section as SourceSection),
        disksMoved: () => this.#destination.host.step({ kind: 'disksStaged' }),
        lost: (session, reason) =>
          this.#destination.host.step({ kind: 'sessionLost', session, reason }),
      },
    });
    this.#guest.onFault = (pages) => this.#destination.fault(pages);
  }

  run(): string {
    const world = this.#world;
    world.schedule(1000, () => this.#source.host.step({ kind: 'start' }));
    for (const { kind, atUs, us } of this.#options.faults) {
      world.schedule(atUs, () => this.#fault(kind, us));
    }
    for (const { command, atUs } of this.#options.commands) {
      for (const again of [0, 1]) world.schedule(atUs + again, () => this.#command(command));
    }
    world.run(PHASE_1_US, () => this.#over());
    this.#settle();
    world.run(PHASE_1_US + PHASE_2_US, () => this.#over());
    if (!this.#over()) {
      const { state } = this.#source.core;
      const there = this.#destination.core.state;
      throw new Violation(
        `Every run ends: source ${JSON.stringify(state)}, destination ${there.kind}`,
      );
    }
    // What an end has asked for is done.
    world.run(world.nowUs + SECOND_US, () => false);
    return this.#verdict();
  }

  #neverThere(): boolean {
    const { host, core } = this.#destination;
    const { state } = core;
    const gone = !host.alive || state.kind === 'waiting';
    const discarded = state.kind === 'ended' && state.outcome.kind === 'discarded';
    return !this.#guest.everHeardThere && (gone || discarded);
  }

  #oldImage(): Int32Array | undefined {
    if (this.#options.image === 'none') return undefined;
    const random = this.#world.stream();
    const image = Int32Array.from(this.#guest.memory('source'));
    for (let page = 0; page < image.length; page += 1) {
      if (random.chance(0.2)) image[page] = 1_000_000;
    }
    return image;
  }

  #newDestination(recorded: SimDestination['recorded']): SimDestination {
    return new SimDestination({
      world: this.#world,
      options: this.#options,
      guest: this.#guest,
      files: this.#files,
      breakage: this.#breakage,
      recorded,
      link: () => this.#link,
      onStart: () => this.#killStarting(),
    });
  }

  #fault(kind: MigrationSimOptions['faults'][number]['kind'], us: number): void {
    if (this.#settling) return;
    this.#world.trace('fault', () => `${kind} ${us}`);
    switch (kind) {
      case 'cut':
        this.#link.up = false;
        this.#link.cut('The network is cut');
        this.#world.schedule(us, () => {
          if (!this.#settling) this.#link.up = true;
        });
        return;
      case 'kill-source':
        this.#source.host.kill();
        this.#guest.kill('source');
        this.#link.cut('The source was killed');
        return;
      case 'kill-destination':
        this.#killDestination();
        if (us < 10 * SECOND_US) this.#world.schedule(us, () => this.#restart());
        return;
      case 'cancel':
        for (const { host } of [this.#source, this.#destination]) {
          if (us % 3 === 0) host.step({ kind: 'operatorCancel' });
        }
        this.#source.host.step({ kind: 'operatorCancel' });
        return;
      case 'stall':
        if (us % 2 === 0) this.#source.host.stall(us);
        else this.#destination.host.stall(us);
        return;
    }
  }

  #killStarting(): void {
    const afterUs = this.#options.killStartingUs;
    if (afterUs === undefined || this.#settling) return;
    this.#world.schedule(afterUs, () => {
      if (!this.#settling) this.#fault('kill-destination', SECOND_US);
    });
  }

  #killDestination(): void {
    this.#destinationDied = true;
    const { host, recorded } = this.#destination;
    if (host.alive && this.#guest.everHeardThere && recorded?.what !== 'owns') {
      throw new Violation(`Written before it is heard: the record says ${recorded?.what}`);
    }
    this.#destination.host.kill();
    this.#guest.kill('destination');
    this.#link.cut('The destination was killed');
  }

  /** Another process of the same host: it has what the one before wrote down. */
  #restart(): void {
    if (this.#destination.host.alive) return;
    this.#destination = this.#newDestination(this.#destination.recorded);
  }

  #command(command: Command): void {
    const { host, core } = this.#source;
    const { state } = core;
    const inputs: Record<Command, SourceInput> = {
      postcopy: { kind: 'operatorPostcopy' },
      recover: { kind: 'operatorRecover', address: 'elsewhere' },
      release: { kind: 'operatorRelease' },
      force: { kind: 'operatorForce', by: 'an operator who errs' },
      adjust: { kind: 'adjust', maxBandwidth: 50_000_000 },
    };
    // These two are refused unless the destination is out of sight; then they are a decision.
    const decides = command === 'release' || command === 'force';
    const open = state.kind === 'handedOver' && (state.link === 'lost' || state.link === 'stuck');
    if (!decides || (!open && !host.stalled)) host.step(inputs[command]);
  }

  #settle(): void {
    this.#settling = true;
    this.#world.trace('phase 2', () => (this.#options.networkLost ? 'no network' : 'healed'));
    this.#link.up = !this.#options.networkLost;
    if (this.#options.networkLost) this.#link.cut('The network is gone for good');
    this.#restart();
    this.#guest.sweep();
    this.#operate();
  }

  /** What the runbook says, again and again. */
  #operate(): void {
    this.#world.schedule(OPERATOR_US, () => {
      if (this.#over()) return;
      this.#decide();
      this.#operate();
    });
  }

  #decide(): void {
    const source = this.#source;
    const destination = this.#destination;
    const here = source.core.state;
    const there = destination.core.state;
    if (!this.#link.up && here.kind === 'ended' && here.outcome.kind === 'moved') {
      this.#finishThere();
    }
    if (!source.host.alive || here.kind === 'ended') {
      // The source has the guest, or nobody can send pages any more.
      if (there.kind === 'loaded' && there.lostAtUs !== undefined) {
        // What the source wrote down tells: without `given-up` the guest has run on there.
        if (this.#source.recorded === 'given-up') this.#forceThere();
        else destination.host.step({ kind: 'operatorCancel' });
      }
      this.#finishThere();
      return;
    }
    if (here.kind === 'precopy' && this.#world.nowUs > PATIENCE_UNTIL_US) {
      source.host.step({ kind: 'operatorCancel' });
    }
    if (here.kind !== 'handedOver') return;
    if (here.link !== 'lost' && here.link !== 'stuck') return;
    if (here.link === 'lost' && this.#link.up) return;
    // The network is gone, or the destination's answer does not decide it.
    const lives = destination.host.alive;
    if (lives && there.kind === 'ended' && there.outcome.kind === 'completed') {
      source.host.step({ kind: 'operatorRelease' });
    } else if (lives && there.kind === 'loaded' && there.lostAtUs !== undefined) {
      if (!here.postcopy || here.backup === 'written') this.#forceThere();
    } else if (lives && there.kind === 'running') {
      if (here.backup === 'written') this.#finishThere();
    } else if (there.kind === 'ended' || there.kind === 'waiting') {
      if (this.#options.sharesDisks && this.#guest.everHeardThere) {
        // The disk has gone on from the state that the source has: it refuses.
        this.#world.trace('operator', () => 'releases the source');
        source.host.step({ kind: 'operatorRelease' });
        return;
      }
      this.#world.trace('operator', () => 'forces the source');
      if (this.#guest.everHeardThere) this.#guest.rollBack();
      this.#guest.handedOver = false;
      this.#forced = true;
      source.host.step({ kind: 'operatorForce', by: 'the operator' });
    }
  }

  #forceThere(): void {
    this.#guest.handedOver = true;
    this.#destination.host.step({ kind: 'operatorForce', by: 'the operator' });
  }

  #finishThere(): void {
    if (this.#destination.core.state.kind !== 'running') return;
    this.#destination.host.step({ kind: 'operatorFinish', path: 'backup' });
  }

  /** Nothing more will happen by itself. */
  #over(): boolean {
    const here = this.#source.core.state;
    const there = this.#destination.core.state;
    const sourceOver = !this.#source.host.alive || here.kind === 'ended';
    const waits = there.kind === 'waiting' && (sourceOver || here.kind !== 'idle');
    // Without the source nothing but a backup file brings the rest.
    const orphan =
      there.kind === 'running' &&
      this.#settling &&
      !this.#source.host.alive &&
      this.#files.backup === undefined;
    const thereOver = !this.#destination.host.alive || waits || there.kind === 'ended' || orphan;
    return sourceOver && thereOver;
  }

  #verdict(): string {
    const guest = this.#guest;
    const here = this.#source.core.state;
    const there = this.#destination.core.state;
    const killed = {
      source: !this.#source.host.alive,
      destination: this.#destinationDied,
    };
    const outcome = here.kind === 'ended' ? here.outcome.kind : here.kind;
    const detail = `source ${killed.source ? 'killed' : outcome}, destination ${
      there.kind === 'ended' ? there.outcome.kind : there.kind
    }${this.#forced ? ', forced' : ''}`;
    if (guest.runs('source')) {
      guest.check('source', false);
      if (outcome !== 'kept') throw new Violation(`The outcome is true: ${detail}`);
      return detail;
    }
    if (guest.runs('destination')) {
      const orphan = there.kind === 'running' && killed.source;
      guest.check('destination', orphan);
      const completed = there.kind === 'ended' && there.outcome.kind === 'completed';
      if (!orphan && !completed) throw new Violation(`The outcome is true: ${detail}`);
      return orphan ? `${detail}, pages lost with the source` : detail;
    }
    if (!killed.source && !guest.everHeardThere) {
      throw new Violation(`None before the switchover: no guest runs (${detail})`);
    }
    if (!killed.source && !killed.destination) {
      throw new Violation(`One guest is left: none runs (${detail})`);
    }
    return `${detail}, guest killed`;
  }
}
