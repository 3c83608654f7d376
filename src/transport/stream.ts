/**
 * Where byte streams come from. Both directions of the transport take their sockets here and
 * nowhere else; a `tls.TLSSocket` is a `net.Socket`, so encryption is a change to this file only.
 */
import net from 'node:net';

/** A peer's listening address. `localAddress` picks our end, for hosts with several networks. */
export interface Endpoint {
  readonly host: string;
  readonly port: number;
  readonly localAddress?: string;
}

/** A socket that is connecting. Whole messages are written at once, so Nagle only adds delay. */
export function openStream(endpoint: Endpoint): net.Socket {
  return net.connect({ ...endpoint, noDelay: true });
}

/** A server that is not listening yet. */
export function createStreamServer(onStream: (socket: net.Socket) => void): net.Server {
  return net.createServer({ noDelay: true }, onStream);
}
