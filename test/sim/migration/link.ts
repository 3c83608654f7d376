/**
 * The network between the two hosts: sessions of ordered links that end, are noticed late and at
 * different times at the two ends, and can be made again.
 *
 * Sections cross it as bytes: encoded at one end, decoded at the other.
 */
import type { Prng } from '../../../src/lib/index.js';
import {
  DESTINATION_SECTIONS,
  type DestinationSection,
  LINK_OF,
  type Section,
  SectionReader,
  SOURCE_SECTIONS,
  type SourceSection,
} from '../../../src/migration/index.js';
import type { World } from '../world.js';
import type { MigrationSimOptions } from './options.js';

export type Side = 'source' | 'destination';

/** What an end hears. */
export interface End {
  readonly alive: () => boolean;
  readonly section: (session: number, section: Section) => void;
  readonly disksMoved: (session: number) => void;
  readonly lost: (session: number, reason: string) => void;
}

interface Wire {
  readonly reader: SectionReader;
  freeAtUs: number;
}

interface SimSession {
  readonly id: number;
  /** Nothing that is sent any more arrives. */
  dead: boolean;
  readonly told: Set<Side>;
  readonly wires: Map<string, Wire>;
}

const other = (side: Side): Side => (side === 'source' ? 'destination' : 'source');

/** Longest time from a cut until an end notices. */
const NOTICE_US = 400_000;

export class SimLink {
  readonly #world: World;
  readonly #random: Prng;
  readonly #options: MigrationSimOptions;
  readonly #ends: Readonly<Record<Side, End>>;
  readonly #sessions = new Map<number, SimSession>();
  #next = 1;
  up = true;

  constructor(world: World, options: MigrationSimOptions, ends: Readonly<Record<Side, End>>) {
    this.#world = world;
    this.#random = world.stream();
    this.#options = options;
    this.#ends = ends;
  }

  connect(done: (session: number | undefined) => void): void {
    this.#world.schedule(2 * this.#options.latencyUs, () => {
      if (!this.up || !this.#ends.destination.alive()) {
        // A refusal comes at once, silence takes its time.
        this.#world.schedule(this.up ? 0 : 500_000, () => done(undefined));
        return;
      }
      const id = this.#next;
      this.#next += 1;
      this.#sessions.set(id, { id, dead: false, told: new Set(), wires: new Map() });
      done(id);
    });
  }

  put(from: Side, sessionId: number, section: Section): void {
    const session = this.#sessions.get(sessionId);
    if (session === undefined || session.dead || session.told.has(from)) return;
    const table = from === 'source' ? SOURCE_SECTIONS : DESTINATION_SECTIONS;
    const bytes = Buffer.concat(
      from === 'source'
        ? SOURCE_SECTIONS.encode(section as SourceSection)
        : DESTINATION_SECTIONS.encode(section as DestinationSection),
    );
    const wire = this.#wire(session, from, LINK_OF[section.kind]);
    this.#arrive(session, { from, wire, bytes: bytes.length }, () => {
      for (const raw of wire.reader.write(bytes)) {
        const decoded = table.decode(raw);
        if (decoded !== undefined) this.#ends[other(from)].section(sessionId, decoded);
      }
    });
  }

  /** The mark behind the moved disks' last write, on their own link. */
  putDisks(sessionId: number, bytes: number): void {
    const session = this.#sessions.get(sessionId);
    if (session === undefined || session.dead) return;
    const wire = this.#wire(session, 'source', 'disk');
    this.#arrive(session, { from: 'source', wire, bytes }, () => {
      this.#ends.destination.disksMoved(sessionId);
    });
  }

  /** In order: what was put arrives first, then the other end hears of it. */
  close(from: Side, sessionId: number): void {
    const session = this.#sessions.get(sessionId);
    if (session === undefined || session.dead || session.told.has(from)) return;
    session.told.add(from);
    const freeAtUs = Math.max(
      this.#world.nowUs,
      ...[...session.wires].filter(([name]) => name.startsWith(from)).map(([, w]) => w.freeAtUs),
    );
    this.#world.schedule(freeAtUs - this.#world.nowUs + this.#options.latencyUs + 1, () => {
      if (session.dead) return;
      session.dead = true;
      this.#tell(session, other(from), 'The peer closed it');
    });
  }

  /** All that is on its way is lost; each end notices in its own time. */
  cut(reason: string): void {
    for (const session of this.#sessions.values()) {
      if (session.dead) continue;
      session.dead = true;
      for (const side of ['source', 'destination'] as const) {
        this.#world.schedule(this.#random.nextInt(0, NOTICE_US), () =>
          this.#tell(session, side, reason),
        );
      }
    }
  }

  #arrive(
    session: SimSession,
    what: { from: Side; wire: Wire; bytes: number },
    run: () => void,
  ): void {
    const { from, wire, bytes } = what;
    const { latencyUs, bytesPerUs } = this.#options;
    const startUs = Math.max(this.#world.nowUs, wire.freeAtUs);
    wire.freeAtUs = startUs + Math.ceil(bytes / bytesPerUs);
    this.#world.schedule(wire.freeAtUs - this.#world.nowUs + latencyUs, () => {
      const to = other(from);
      if (session.dead || session.told.has(to) || !this.#ends[to].alive()) return;
      run();
    });
  }

  #tell(session: SimSession, side: Side, reason: string): void {
    if (session.told.has(side)) return;
    session.told.add(side);
    this.#ends[side].lost(session.id, reason);
  }

  #wire(session: SimSession, from: Side, link: string): Wire {
    const name = `${from} ${link}`;
    const known = session.wires.get(name);
    if (known !== undefined) return known;
    const table = from === 'source' ? SOURCE_SECTIONS : DESTINATION_SECTIONS;
    const wire = { reader: new SectionReader(table.limit), freeAtUs: 0 };
    session.wires.set(name, wire);
    return wire;
  }
}
