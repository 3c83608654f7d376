/**
 * A migration's sections on the links of a session: one frame each, of a type that nothing else
 * has. Sections of one link keep their order. The faults link has threads of its own: faults/.
 */
import { describeError, ProtocolError } from '../lib/index.js';
import {
  type CheckedParts,
  encodePages,
  type LaneSection,
  LINK_OF,
  type MigrationChannel,
  type MigrationLink,
  type Section,
  type SectionTable,
  SOURCE_SECTIONS,
  type SourceSection,
  unframeSection,
} from '../migration/index.js';
import { type Frame, payloadCrc, type Session } from '../transport/index.js';

/** The type of the frame that carries a section; src/replication's are below. */
export const SECTION_FRAME = 0x0160;

/** Which the main thread reads. */
const LINKS = ['control', 'ram'] as const satisfies readonly MigrationLink[];

export class SessionChannel<Out extends Section, In extends Section>
  implements MigrationChannel<Out, Exclude<In, LaneSection>>
{
  readonly #session: Session;
  readonly #out: SectionTable<Out>;
  readonly #in: SectionTable<In>;
  #handler: ((section: Exclude<In, LaneSection>) => void) | undefined;
  #malformed: string | undefined;

  constructor(session: Session, tables: { out: SectionTable<Out>; in: SectionTable<In> }) {
    this.#session = session;
    this.#out = tables.out;
    this.#in = tables.in;
  }

  put(section: Out): void {
    this.#session.links[LINK_OF[section.kind]].send(SECTION_FRAME, this.#out.encode(section));
  }

  /** A batch of pages by its parts, which are neither copied nor read: only the source has any. */
  putPages(sequence: number, batch: CheckedParts): void {
    const { parts, crc } = encodePages('pages', sequence, batch);
    this.#session.links.ram.send(SECTION_FRAME, parts, crc);
  }

  get writable(): boolean {
    return this.#session.links.ram.writable;
  }

  drained(): Promise<void> {
    return this.#session.links.ram.drained();
  }

  onSection(handler: ((section: Exclude<In, LaneSection>) => void) | undefined): void {
    this.#handler = handler;
    for (const name of LINKS) {
      const take = (frame: Frame): void => this.#onFrame(name, frame);
      this.#session.links[name].onFrame(handler === undefined ? undefined : take);
    }
  }

  onClose(
    handler: (reason: { readonly malformed: boolean; readonly reason: string }) => void,
  ): void {
    this.#session.onClose(({ kind, channel, error }) => {
      const why = error === undefined ? '' : `: ${describeError(error)}`;
      const reason = this.#malformed ?? `Link ${channel ?? ''} ${kind}${why}`;
      handler({ malformed: this.#malformed !== undefined || kind === 'protocol', reason });
    });
  }

  close(): void {
    this.#session.close();
  }

  #onFrame(name: MigrationLink, frame: Frame): void {
    const section = sectionOf(frame, this.#in, name);
    // Of these links, so none of the faults link's.
    if (section !== undefined) this.#handler?.(section as Exclude<In, LaneSection>);
  }
}

/** What a source says first. Throws ProtocolError. */
export function sourceSectionOf(frame: Frame): Exclude<SourceSection, LaneSection> {
  const section = sectionOf(frame, SOURCE_SECTIONS, 'control');
  if (section === undefined) throw new ProtocolError('A migration begins with an unknown section');
  return section as Exclude<SourceSection, LaneSection>;
}

/**
 * The section of a frame; undefined: of a newer version, and not required. Throws ProtocolError, as
 * for a section that belongs on another link than `name`.
 */
export function sectionOf<S extends Section>(
  frame: Frame,
  table: SectionTable<S>,
  name: MigrationLink,
): S | undefined {
  const section = decode(frame, table);
  if (section !== undefined && LINK_OF[section.kind] !== name) {
    throw new ProtocolError(`A ${section.kind} came on the ${name} link`);
  }
  return section;
}

function decode<S extends Section>(frame: Frame, table: SectionTable<S>): S | undefined {
  if (frame.type !== SECTION_FRAME) {
    throw new ProtocolError(`A frame of type ${frame.type} is no section of a migration`);
  }
  return table.decode(unframeSection(frame.payload, table.limit, payloadCrc(frame)));
}
