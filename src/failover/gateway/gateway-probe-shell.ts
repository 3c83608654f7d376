/**
 * Pings the gateway from a raw socket; opens it again when it breaks, as when a route is gone.
 * Looks whether the way there has a carrier, too.
 */
import { randomBytes } from 'node:crypto';
import { describeError, type Logger } from '../../lib/index.js';
import { bootTimeUs, openIcmpSocket, type PacketDevice, Uplink } from '../../linux/index.js';
import { GatewayMonitor, type GatewayOutput } from './gateway-monitor.js';
import { encodeEcho, type Family, isEchoReply, NONCE_BYTES } from './icmp-wire.js';

export interface GatewayProbeOptions {
  /** A checked IP address. */
  readonly address: string;
  readonly log: Logger;
  /** Not called before the first reply: until then the gateway counts as unreachable. */
  readonly onChange: (reachable: boolean) => void;
}

const LENGTH_BYTES = 4;

export class GatewayProbe {
  readonly #options: GatewayProbeOptions;
  readonly #family: Family;
  readonly #nonce = randomBytes(NONCE_BYTES);
  readonly #monitor = new GatewayMonitor(bootTimeUs());
  #socket: PacketDevice | undefined;
  #uplink: Uplink | undefined;
  #timer: NodeJS.Timeout | undefined;
  #failure = '';
  #stopped = false;

  constructor(options: GatewayProbeOptions) {
    this.#options = options;
    this.#family = options.address.includes(':') ? 6 : 4;
    this.#tick();
  }

  /** Idempotent. */
  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#close();
  }

  #tick(): void {
    const outputs = this.#monitor.tick(bootTimeUs(), this.#uplink?.hasCarrier());
    for (const output of outputs) this.#perform(output);
    if (this.#stopped) return;
    const waitMs = Math.ceil((this.#monitor.deadlineUs() - bootTimeUs()) / 1000);
    this.#timer = setTimeout(() => this.#tick(), Math.max(1, waitMs));
  }

  #perform(output: GatewayOutput): void {
    if (output.kind === 'send') this.#send(output.sequence);
    else this.#options.onChange(output.reachable);
  }

  #send(sequence: number): void {
    const message = encodeEcho(this.#family, this.#nonce, sequence);
    const batch = Buffer.alloc(LENGTH_BYTES + message.length);
    batch.writeUInt32BE(message.length, 0);
    message.copy(batch, LENGTH_BYTES);
    try {
      this.#socket ??= this.#open();
      if (this.#socket.writeBatch(batch, 0).result === 'down') this.#close();
    } catch (error) {
      const failure = describeError(error);
      const { address, log } = this.#options;
      if (failure !== this.#failure)
        log.warn('The gateway can not be pinged', { address, failure });
      this.#failure = failure;
    }
  }

  #open(): PacketDevice {
    const socket = openIcmpSocket(this.#options.address);
    socket.onReadable(() => this.#read(socket));
    this.#uplink = Uplink.towards(this.#options.address) ?? this.#uplink;
    this.#failure = '';
    return socket;
  }

  #read(socket: PacketDevice): void {
    const batch = socket.readBatch();
    // An error that the network reported, such as "host unreachable": the next one is sent anew.
    if (socket.failure !== undefined) this.#close();
    if (batch === undefined) return;
    for (let at = 0; at < batch.length; ) {
      const start = at + LENGTH_BYTES;
      at = start + batch.readUInt32BE(at);
      if (!isEchoReply(this.#family, batch.subarray(start, at), this.#nonce)) continue;
      for (const output of this.#monitor.replied()) this.#perform(output);
    }
  }

  #close(): void {
    this.#socket?.close();
    this.#socket = undefined;
  }
}
