/**
 * One HTTP/1.x response with a Content-Length, decoded as it arrives. In: bytes of a connection.
 * Out: status, then body pieces to a sink, then `done`. Source: RFC 9112 sections 2-6; chunked
 * bodies and bodies that end with the connection are refused, since nginx sends neither for a file.
 */
import { ProtocolError } from '../../src/lib/index.js';

/** nginx' header for a file has about 250 bytes. */
const HEADER_BYTES_MAX = 16 << 10;
/** Larger than any file of the test guest. */
const BODY_BYTES_MAX = 2 ** 32;

export class HttpResponse {
  readonly #onBody: (piece: Buffer) => void;
  #header = Buffer.alloc(0);
  #left: number | undefined;
  status = 0;

  /** `onBody` borrows each piece until it returns. */
  constructor(onBody: (piece: Buffer) => void = () => {}) {
    this.#onBody = onBody;
  }

  get done(): boolean {
    return this.#left === 0;
  }

  /**
   * Takes the next bytes; throws `ProtocolError` on a header it can't use and on bytes too many.
   */
  write(chunk: Buffer): void {
    let body = chunk;
    if (this.#left === undefined) {
      const bytes = this.#header.length === 0 ? chunk : Buffer.concat([this.#header, chunk]);
      const end = bytes.indexOf('\r\n\r\n', 0, 'latin1');
      if ((end < 0 ? bytes.length : end) > HEADER_BYTES_MAX) {
        throw new ProtocolError(`A response header is longer than ${HEADER_BYTES_MAX} bytes`);
      }
      if (end < 0) {
        this.#header = Buffer.from(bytes);
        return;
      }
      this.#left = this.#parse(bytes.toString('latin1', 0, end));
      body = bytes.subarray(end + 4);
    }
    if (body.length > this.#left) {
      throw new ProtocolError(`${body.length - this.#left} bytes follow the response`);
    }
    this.#left -= body.length;
    if (body.length > 0) this.#onBody(body);
  }

  #parse(header: string): number {
    const status = /^HTTP\/1\.[01] (\d{3})/.exec(header)?.[1];
    const length = /^content-length: *(\d{1,10})$/im.exec(header.replaceAll('\r', ''))?.[1];
    if (status === undefined || length === undefined || Number(length) > BODY_BYTES_MAX) {
      throw new ProtocolError(`No usable response header: ${JSON.stringify(header.slice(0, 80))}`);
    }
    this.status = Number(status);
    return Number(length);
  }
}
