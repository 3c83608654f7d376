/** A capture file of either format: its first four bytes decide. */
import { ProtocolError } from '../../lib/index.js';
import { type CaptureDecoder, type CapturedFrame, PcapDecoder, pcapForm } from './pcap-wire.js';
import { PCAPNG_SECTION, PcapngDecoder } from './pcapng-wire.js';

const MAGIC_BYTES = 4;
/** What captures are often compressed with: by its first bytes. */
const COMPRESSED: readonly (readonly [string, string])[] = [
  ['1f8b', 'gzip'],
  ['28b52ffd', 'zstd'],
  ['fd377a58', 'xz'],
];

export class CaptureFileDecoder implements CaptureDecoder {
  #begin = Buffer.alloc(0);
  #decoder: CaptureDecoder | undefined;

  write(chunk: Buffer): CapturedFrame[] {
    if (this.#decoder !== undefined) return this.#decoder.write(chunk);
    this.#begin = Buffer.concat([this.#begin, chunk]);
    if (this.#begin.length < MAGIC_BYTES) return [];
    this.#decoder = decoderFor(this.#begin.subarray(0, MAGIC_BYTES));
    return this.#decoder.write(this.#begin);
  }

  end(): void {
    if (this.#decoder !== undefined) this.#decoder.end();
    else if (this.#begin.length === 0) throw new ProtocolError('The file is empty');
    else throw new ProtocolError('The file is too short for a capture');
  }
}

function decoderFor(magic: Buffer): CaptureDecoder {
  if (pcapForm(magic) !== undefined) return new PcapDecoder();
  if (magic.readUInt32BE(0) === PCAPNG_SECTION) return new PcapngDecoder();
  const hex = magic.toString('hex');
  const tool = COMPRESSED.find(([begin]) => hex.startsWith(begin))?.[1];
  if (tool !== undefined) {
    throw new ProtocolError(`The file is compressed with ${tool}, expected plain pcap or pcapng`);
  }
  throw new ProtocolError(`The file begins with ${hex}, expected the magic of pcap or pcapng`);
}
