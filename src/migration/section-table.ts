/**
 * Sections by their kind: which codec has which tag, and what versions mean.
 *
 * A codec writes and reads one kind. Of a newer minor version the fields at the end that are not
 * known are left unread; an older one has fewer, which `decode` sees by `minor`. Another major
 * version is refused by name, and so is an embedded section that is required and not asked for.
 */
import { assert, ByteReader, ProtocolError } from '../lib/index.js';
import {
  frameSection,
  nameParent,
  type RawSection,
  type SectionLimit,
  sectionName,
} from './section-wire.js';

/** What a codec reads a section from. */
export interface SectionSource {
  readonly fields: ByteReader;
  /** Of the sender; fields that a later version added are absent. */
  readonly minor: number;
  /** CRC-32C of all fields, for whoever would read them for it; undefined: nobody knows it. */
  readonly fieldsCrc: number | undefined;
  /** The embedded sections of this codec's tag, decoded. */
  embedded<S>(codec: SectionCodec<S>): S[];
}

export interface SectionCodec<S> {
  readonly tag: string;
  readonly major: number;
  readonly minor: number;
  /** A reader that does not know the section must refuse the stream. */
  readonly required: boolean;
  /** Of the payload. */
  readonly maxBytes: number;
  encode(section: S): {
    readonly fields: readonly Buffer[];
    readonly embedded?: readonly Buffer[];
  };
  decode(source: SectionSource): S;
}

/** The bytes of a section. */
export function encodeWith<S>(codec: SectionCodec<S>, section: S): Buffer[] {
  const { tag, major, minor, required, maxBytes } = codec;
  const parts = frameSection({ tag, major, minor, required, ...codec.encode(section) });
  const bytes = parts.slice(1).reduce((sum, part) => sum + part.length, 0);
  assert(bytes <= maxBytes, `Section ${tag} has ${bytes} bytes, at most ${maxBytes}`);
  return parts;
}

/** Throws `ProtocolError` naming the section. */
export function decodeWith<S>(codec: SectionCodec<S>, raw: RawSection): S {
  const name = sectionName(raw.tag);
  if (raw.major !== codec.major) {
    throw new ProtocolError(
      `Section ${name} has version ${raw.major}.${raw.minor}, ` +
        `this side reads ${codec.major}.x`,
    );
  }
  const fields = new ByteReader(raw.fields);
  const taken = new Set<string>();
  const section = nameParent(raw.tag, () => {
    const decoded = codec.decode({
      fields,
      minor: raw.minor,
      fieldsCrc: raw.fieldsCrc,
      embedded: (inner) => {
        taken.add(inner.tag);
        return raw.embedded
          .filter(({ tag }) => tag === inner.tag)
          .map((found) => decodeWith(inner, found));
      },
    });
    if (raw.minor <= codec.minor) fields.end();
    return decoded;
  });
  const unknown = raw.embedded.find(({ tag, required }) => required && !taken.has(tag));
  if (unknown !== undefined) {
    throw new ProtocolError(
      `In section ${name}: section ${sectionName(unknown.tag)} is required by the peer and not ` +
        'known here',
    );
  }
  return section;
}

/** The codecs of a set of sections that are told apart by `kind`. */
export class SectionTable<S extends { readonly kind: string }> {
  readonly #byKind: ReadonlyMap<string, SectionCodec<S>>;
  readonly #byTag: ReadonlyMap<string, SectionCodec<S>>;

  constructor(codecs: { readonly [K in S['kind']]: SectionCodec<Extract<S, { kind: K }>> }) {
    const entries = Object.entries(codecs) as [string, SectionCodec<S>][];
    this.#byKind = new Map(entries);
    this.#byTag = new Map(entries.map(([, codec]) => [codec.tag, codec]));
    assert(this.#byTag.size === entries.length, 'Two sections have the same tag');
  }

  readonly limit: SectionLimit = (tag) => this.#byTag.get(tag)?.maxBytes;

  encode(section: S): Buffer[] {
    const codec = this.#byKind.get(section.kind);
    assert(codec !== undefined, `No codec for ${section.kind}`);
    return encodeWith(codec, section);
  }

  /** Undefined: not known and not required. Throws `ProtocolError`. */
  decode(raw: RawSection): S | undefined {
    const codec = this.#byTag.get(raw.tag);
    if (codec !== undefined) return decodeWith(codec, raw);
    if (!raw.required) return undefined;
    throw new ProtocolError(
      `Section ${sectionName(raw.tag)} is required by the peer and not known here`,
    );
  }
}
