/** Frames that have come and wait for whoever takes them, in order. */
import type { Frame } from './frame-wire.js';

export class FrameInbox {
  #frames: Frame[] = [];
  #at = 0;

  get size(): number {
    return this.#frames.length - this.#at;
  }

  add(frame: Frame): void {
    this.#frames.push(frame);
  }

  next(): Frame | undefined {
    const frame = this.#frames[this.#at];
    if (frame === undefined) return undefined;
    this.#at += 1;
    if (this.#at === this.#frames.length) this.takeAll();
    return frame;
  }

  takeAll(): readonly Frame[] {
    const rest = this.#frames.slice(this.#at);
    this.#frames = [];
    this.#at = 0;
    return rest;
  }
}
