/** The trace events of the 2012 data plane, by their old names, with what each says. */
export type TraceEvent =
  /** The data-plane thread serves its queues. */
  | { readonly name: 'virtio_blk_data_plane_start', readonly queues: number }
  /** It does no longer. */
  | { readonly name: 'virtio_blk_data_plane_stop' }
  /** A ring was set up: its parts' guest addresses, and the index that it begins at. */
  | { readonly name: 'vring_setup', readonly queue: number, readonly descriptorAddress: number, readonly availableAddress: number, readonly usedAddress: number, readonly index: number }
  /** A request was taken off the ring: its segments to read and to write, and its name. */
  | { readonly name: 'virtio_blk_data_plane_process_request', readonly queue: number, readonly readable: number, readonly writable: number, readonly head: number }
  /** A request is complete: bytes moved or a negative error number. */
  | { readonly name: 'virtio_blk_data_plane_complete_request', readonly queue: number, readonly head: number, readonly result: number }

/** Receives trace events. */
export type Tracer = (event: TraceEvent) => void
