import { z } from 'zod';

/** A contract was signed. */
export const CONTRACT_SIGNED = 'contract.signed.v1';
/** A signed contract became active: from now on its units may be consumed. */
export const CONTRACT_ACTIVATED = 'contract.activated.v1';
/** Units of an active contract were consumed. */
export const SERVICE_CONSUMED = 'contract.service_consumed.v1';

/** The form of CONTRACT_SIGNED. */
export const contractSigned = z.object({
  contractId: z.guid(),
  mentorId: z.string().min(1),
  currency: z.string().regex(/^[A-Z]{3}$/),
  unitPriceMinor: z.int().min(0),
  totalUnits: z.int().min(1),
});
/** The form of CONTRACT_ACTIVATED. */
export const contractActivated = z.object({ contractId: z.guid(), activatedAt: z.iso.datetime() });
/** The form of SERVICE_CONSUMED. */
export const serviceConsumed = z.object({
  contractId: z.guid(),
  consumptionId: z.guid(),
  units: z.int().min(1),
});

/** The payload of CONTRACT_SIGNED. */
export type ContractSigned = z.infer<typeof contractSigned>;
/** The payload of CONTRACT_ACTIVATED. */
export type ContractActivated = z.infer<typeof contractActivated>;
/** The payload of SERVICE_CONSUMED. */
export type ServiceConsumed = z.infer<typeof serviceConsumed>;
