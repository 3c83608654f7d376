/**
 * A migration's sections on the links of a session: one frame each, of a type that nothing else
 * has. Sections of one link keep their order.
 */
import { describeError, ProtocolError } from '../lib/index.js';
import {
  type CheckedParts,
  encodePages,
  LINK_OF,
  type MigrationChannel,
  type MigrationLink,
  type Section,
  type SectionTable,
  SOURCE_SECTIONS,
  type SourceSection,
  unframeSection,
} from '../migration/index.js';
import type { Frame, Session } from '../transport/index.js';

/** The type of the frame that carries a section; src/replication's are below. */
export const SECTION_FRAME = 0x0160;

const LINKS = ['control', 'ram'] as const satisfies readonly MigrationLink[];

export class SessionChannel<Out extends Section, In extends Section>
  implements MigrationChannel<Out, In>
{
  readonly #session: Session;
  readonly #out: SectionTable<Out>;
  readonly #in: SectionTable<In>;
  #handler: ((section: In) => void) | undefined;
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
  putPages(kind: 'pages' | 'demanded', sequence: number, batch: CheckedParts): void {
    const { parts, crc } = encodePages(kind, sequence, batch);
    this.#session.links[LINK_OF[kind]].send(SECTION_FRAME, parts, crc);
  }

  get writable(): boolean {
    return this.#session.links.ram.writable;
  }

  drained(): Promise<void> {
    return this.#session.links.ram.drained();
  }

  onSection(handler: ((section: In) => void) | undefined): void {
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
    const section = decode(frame, this.#in);
    if (section === undefined) return;
    if (LINK_OF[section.kind] !== name) {
      throw new ProtocolError(`A ${section.kind} came on the ${name} link`);
    }
    this.#handler?.(section);
  }
}

/** What a source says first. Throws ProtocolError. */
export function sourceSectionOf(frame: Frame): SourceSection {
  const section = decode(frame, SOURCE_SECTIONS);
  if (section === undefined) throw new ProtocolError('A migration begins with an unknown section');
  return section;
}

/** Undefined: of a newer version, and not required. */
function decode<S extends Section>(frame: Frame, table: SectionTable<S>): S | undefined {
  if (frame.type !== SECTION_FRAME) {
    throw new ProtocolError(`A frame of type ${frame.type} is no section of a migration`);
  }
  return table.decode(unframeSection(frame.payload, table.limit));
}
