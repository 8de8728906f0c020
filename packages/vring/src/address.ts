/**
 * A guest address from its halves, which are unsigned but come as signed 32-bit integers. Exact below 2^53; what is
 * above is not, but no region of guest memory reaches there.
 */
export function addressOf (low: number, high: number): number {
  return (high >>> 0) * 0x100000000 + (low >>> 0)
}
