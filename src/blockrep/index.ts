export { ImageFile } from './image-shell.js';
export { NbdServer } from './nbd-server-shell.js';
