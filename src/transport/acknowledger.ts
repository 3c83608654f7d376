/**
 * When a link tells the peer what has come: at once after ACK_BYTES, else after ACK_DELAY_MS.
 */
import type { Socket } from 'node:net';
import { ACK_DELAY_MS } from './limits.js';
import type { ResumeCore } from './resume-core.js';

export class Acknowledger {
  readonly #core: ResumeCore;
  #socket: Socket;
  readonly #onSent: () => void;
  #timer: NodeJS.Timeout | undefined;
  #inQueue = false;

  /** `onSent`: an acknowledgement has left the queue. */
  constructor(core: ResumeCore, socket: Socket, onSent: () => void) {
    this.#core = core;
    this.#onSent = onSent;
    this.#socket = socket;
  }

  /** Something has come. */
  received(): void {
    const core = this.#core;
    if (!core.live || !core.owesAck || this.#inQueue) return;
    if (core.owesAckNow) this.#send();
    else this.#timer ??= setTimeout(this.#onTimer, ACK_DELAY_MS);
  }

  /** The link has another connection, which begins with what has come. */
  moveTo(socket: Socket): void {
    this.stop();
    this.#socket = socket;
    this.#inQueue = false;
  }

  /** Until the next `received`. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  readonly #onTimer = (): void => {
    this.#timer = undefined;
    if (this.#core.live && this.#core.owesAck && !this.#inQueue) this.#send();
  };

  /** One at a time: a peer that does not read is not sent more and more of them. */
  #send(): void {
    const socket = this.#socket;
    if (!socket.writable) return;
    this.#inQueue = true;
    socket.write(Buffer.concat(this.#core.ack()), () => {
      if (this.#socket !== socket) return;
      this.#inQueue = false;
      this.received();
      this.#onSent();
    });
  }
}
