import { EventEmitter } from 'node:events'
import type { ThreadInit } from './messages.ts'
import type { OwnDisk } from './own-disk.ts'
import { ThreadDevice } from './thread-device.ts'
import { ThreadLoop } from './thread-loop.ts'

/** Serves from the calling thread's event loop, in a Worker's place: for a disk that shares that thread's state. */
export class LocalRunner extends EventEmitter<{ error: [Error], exit: [] }> {
  constructor (init: ThreadInit, disk: OwnDisk) {
    super()
    // The end of the process need not wait for its own thread.
    Atomics.store(new Int32Array(init.done), 0, 1)
    void this.#serve(init, disk)
  }

  async #serve (init: ThreadInit, disk: OwnDisk): Promise<void> {
    // Whoever made this is to listen first.
    await undefined
    try {
      const loop = new ThreadLoop()
      new ThreadDevice(init, loop).begin(disk)
      await loop.serve()
    } catch (error) {
      this.emit('error', error as Error)
    }
    this.emit('exit')
  }

  /** No effect: it answers whenever its owner runs. */
  abandon (): void {}
}
