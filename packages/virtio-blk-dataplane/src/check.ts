import { DataPlaneError } from './errors.ts'

/** @throws DataPlaneError ERR_OPTION */
export function checkInteger (name: string, value: number, lowest: number, highest: number): void {
  if (!Number.isInteger(value) || value < lowest || value > highest) {
    throw new DataPlaneError('ERR_OPTION', `${name} is an integer from ${lowest} to ${highest}: not ${value}`)
  }
}
