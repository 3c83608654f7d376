/**
 * The guest, which has one true history, and the checks that need to know it.
 *
 * Each page has a version, raised by every write. Wherever the guest runs it reads a page before it
 * writes it: what is there must be what it wrote last, anywhere. Device state is the number of its
 * steps.
 */
import { assert, type Prng } from '../../../src/lib/index.js';
import type { World } from '../world.js';
import type { Side } from './link.js';
import type { MigrationSimOptions } from './options.js';

/** Broken by the run: the first words name the rule. */
export class Violation extends Error {}

/** The RAM of one host's QEMU: a version for each page; -1: absent, a touch of it waits. */
export type Memory = Int32Array;
export const ABSENT = -1;

/** How often a guest that does not run is looked at. */
const IDLE_US = 5000;

interface Host {
  memory: Memory | undefined;
  running: boolean;
}

export class SimGuest {
  readonly #world: World;
  readonly #random: Prng;
  readonly #options: MigrationSimOptions;
  readonly #truth: Memory;
  readonly #hosts: Record<Side, Host>;
  /** Pages written since the last scan. */
  readonly dirty = new Set<number>();
  steps = 0;
  /** Percent of its time that the guest gets. */
  speed = 100;
  /** Set once `run` was put, and not taken back on proof or force. */
  handedOver = false;
  /** It has said something at the destination: nobody may undo that. */
  everHeardThere = false;
  /** Steps that somebody outside has seen. */
  #heardSteps = 0;
  /** What a crash of the destination brings back, while nothing that the guest says leaves it. */
  #silent: { readonly truth: Memory; readonly steps: number } | undefined;
  onFault: (pages: readonly number[]) => void = () => {};
  /** What it waits for: it does nothing else meanwhile. */
  #waitsFor: number | undefined;
  #sweep = -1;
  /** Who has the shared disk open; its content is part of the truth. */
  readonly #diskOpenAt = new Set<Side>();

  constructor(world: World, options: MigrationSimOptions) {
    this.#world = world;
    this.#random = world.stream();
    this.#options = options;
    this.#truth = new Int32Array(options.pages);
    for (let page = 0; page < options.touched; page += 1) this.#truth[page] = 1;
    this.#hosts = {
      source: { memory: Int32Array.from(this.#truth), running: true },
      destination: { memory: undefined, running: false },
    };
    this.openDisk('source');
    this.#beat();
  }

  /** The shared disk may be read and written there from now on. */
  openDisk(side: Side): void {
    const other = side === 'source' ? 'destination' : 'source';
    if (this.#options.sharesDisks && this.#diskOpenAt.has(other)) {
      throw new Violation(`A shared disk is open at one host: the ${side} opens it, too`);
    }
    this.#diskOpenAt.add(side);
  }

  closeDisk(side: Side): void {
    if (this.#options.sharesDisks && this.runs(side)) {
      throw new Violation(`A guest that runs has its disk: the ${side} closes it`);
    }
    this.#diskOpenAt.delete(side);
  }

  memory(side: Side): Memory {
    const { memory } = this.#hosts[side];
    if (memory === undefined) throw new Violation(`RAM is needed: the ${side} has freed it`);
    return memory;
  }

  setMemory(side: Side, memory: Memory | undefined): void {
    if (this.#hosts[side].running) {
      throw new Violation(`A running guest is kept: its RAM at the ${side} goes`);
    }
    this.#hosts[side].memory = memory;
  }

  runs(side: Side): boolean {
    return this.#hosts[side].running;
  }

  run(side: Side): void {
    if (this.runs('source') || this.runs('destination')) {
      throw new Violation(`One guest runs: it is started at the ${side} while it runs`);
    }
    if (side === 'source' && this.handedOver) {
      throw new Violation('No resume after run: the source runs the guest again');
    }
    if (side === 'destination' && !this.handedOver) {
      throw new Violation('No run before run: the destination runs the guest');
    }
    if (side === 'destination') {
      this.#silent = { truth: Int32Array.from(this.#truth), steps: this.steps };
    }
    if (this.#options.sharesDisks && !this.#diskOpenAt.has(side)) {
      throw new Violation(`A guest that runs has its disk: it is not open at the ${side}`);
    }
    this.#hosts[side].running = true;
    this.#waitsFor = undefined;
  }

  pause(side: Side): void {
    this.#hosts[side].running = false;
  }

  /** What it says at the destination leaves from now on, also what it has said so far. */
  speak(): void {
    this.everHeardThere = true;
    this.#heardSteps = this.steps;
    this.#silent = undefined;
  }

  /** The host's process and its guest are gone; what nobody has heard of has never been. */
  kill(side: Side): void {
    const silent = this.#silent;
    if (side === 'destination' && this.runs(side) && silent !== undefined) {
      if (this.#heardSteps > silent.steps) throw new Violation('Nothing is lost that was heard');
      this.#truth.set(silent.truth);
      this.steps = silent.steps;
    }
    if (side === 'destination') this.#silent = undefined;
    this.#hosts[side] = { memory: undefined, running: false };
    this.#diskOpenAt.delete(side);
  }

  /** An operator has decided that what the source has is the guest from now on. */
  rollBack(): void {
    this.#truth.set(this.memory('source'));
    this.handedOver = false;
  }

  /** From now on every page is touched in turn: nothing stays unread for ever. */
  sweep(): void {
    this.#sweep = 0;
  }

  /** The memory is the guest's, page by page; with `partial` absent ones are let pass. */
  check(side: Side, partial: boolean): void {
    const memory = this.memory(side);
    for (let page = 0; page < memory.length; page += 1) {
      if (partial && memory[page] === ABSENT) continue;
      if (memory[page] !== this.#truth[page]) {
        throw new Violation(
          `RAM is the guest's: page ${page} at the ${side} has version ${memory[page]}, ` +
            `${this.#truth[page]} was written`,
        );
      }
    }
  }

  /** The page has come. */
  arrived(page: number): void {
    if (this.#waitsFor === page) this.#waitsFor = undefined;
  }

  #beat(): void {
    const idle = !this.runs('source') && !this.runs('destination');
    const writeUs = idle ? IDLE_US : this.#options.writeUs;
    this.#world.schedule((writeUs * 100) / this.speed, () => {
      for (const side of ['source', 'destination'] as const) if (this.runs(side)) this.#act(side);
      this.#beat();
    });
  }

  #act(side: Side): void {
    const memory = this.memory(side);
    if (this.#waitsFor !== undefined) return;
    const page = this.#nextPage();
    if (memory[page] === ABSENT) {
      assert(side === 'destination', 'Nothing is absent at the source');
      this.#waitsFor = page;
      this.onFault([page]);
      return;
    }
    const truth = this.#truth[page] as number;
    if (memory[page] !== truth) {
      throw new Violation(
        `The guest reads what it wrote: page ${page} at the ${side} has version ` +
          `${memory[page]}, it wrote ${truth}`,
      );
    }
    this.#truth[page] = truth + 1;
    memory[page] = truth + 1;
    this.steps += 1;
    if (this.#silent === undefined) this.#heardSteps = this.steps;
    if (side === 'source') this.dirty.add(page);
  }

  #nextPage(): number {
    if (this.#sweep >= 0) {
      this.#sweep = (this.#sweep + 1) % this.#options.pages;
      return this.#sweep;
    }
    // Now and then a page outside of the working set, even one that had no content.
    if (this.#random.chance(0.02)) return this.#random.nextInt(0, this.#options.pages - 1);
    return this.#random.nextInt(0, this.#options.hotPages - 1);
  }
}
