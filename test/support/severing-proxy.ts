/**
 * A TCP relay that behaves like a bad network: it cuts connections, forgets them silently, holds
 * what it carries back, and lets nobody through.
 */
import { once } from 'node:events';
import net from 'node:net';

/** How a connection comes to its end: both sides hear of it, one of them, or nobody. */
export type Severance = 'reset' | 'end' | 'near' | 'far' | 'silent';

interface Relayed {
  readonly near: net.Socket;
  readonly far: net.Socket;
  severed: boolean;
}

export class SeveringProxy {
  readonly #server: net.Server;
  readonly #target: number;
  readonly #relayed = new Set<Relayed>();
  /** Milliseconds that everything is held back. */
  delayMs = 0;
  /** New connections are accepted, or else held without a word. */
  mode: 'open' | 'silent' | 'dropping' = 'open';
  /** All connections so far. */
  accepted = 0;

  private constructor(target: number) {
    this.#target = target;
    this.#server = net.createServer({ noDelay: true }, (near) => this.#onConnection(near));
  }

  /** Relays from a free port of loopback to `target`. */
  static async start(target: number): Promise<SeveringProxy> {
    const proxy = new SeveringProxy(target);
    proxy.#server.listen(0, '127.0.0.1');
    await once(proxy.#server, 'listening');
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as net.AddressInfo).port;
  }

  /** Connections that carry something. */
  get open(): number {
    return this.#relayed.size;
  }

  /** Severs the n-th of the open connections, or all of them. */
  sever(how: Severance, which?: number): void {
    const relayed = [...this.#relayed];
    const chosen = which === undefined ? relayed : [relayed[which % relayed.length]];
    for (const each of chosen) if (each !== undefined) this.#sever(each, how);
  }

  /** Stops listening: from now on connections are refused. */
  refuse(): void {
    this.#server.close();
  }

  stop(): void {
    this.#server.close();
    for (const { near, far } of this.#relayed) {
      near.destroy();
      far.destroy();
    }
  }

  #sever(relayed: Relayed, how: Severance): void {
    relayed.severed = true;
    const { near, far } = relayed;
    if (how === 'reset') for (const socket of [near, far]) socket.resetAndDestroy();
    else if (how === 'end') for (const socket of [near, far]) socket.destroy();
    else if (how === 'near') near.resetAndDestroy();
    else if (how === 'far') far.resetAndDestroy();
    if (how !== 'silent') this.#relayed.delete(relayed);
    // What is written to a half-open connection is taken and lost.
    for (const socket of [near, far]) socket.resume();
  }

  #onConnection(near: net.Socket): void {
    this.accepted += 1;
    near.on('error', () => {});
    if (this.mode === 'dropping') {
      near.destroy();
      return;
    }
    if (this.mode === 'silent') {
      near.resume();
      return;
    }
    const far = net.connect({ port: this.#target, host: '127.0.0.1', noDelay: true });
    const relayed: Relayed = { near, far, severed: false };
    this.#relayed.add(relayed);
    far.on('error', () => {});
    this.#pipe(relayed, near, far);
    this.#pipe(relayed, far, near);
  }

  #pipe(relayed: Relayed, from: net.Socket, to: net.Socket): void {
    from.on('data', (chunk: Buffer) => {
      if (relayed.severed) return;
      const pass = (): void => {
        if (relayed.severed || to.write(chunk)) return;
        from.pause();
        to.once('drain', () => from.resume());
      };
      if (this.delayMs === 0) pass();
      else setTimeout(pass, this.delayMs);
    });
    from.on('close', () => {
      if (relayed.severed) return;
      this.#relayed.delete(relayed);
      to.end();
    });
  }
}
