/** Money comes in minor units. How many digits those have is a property of the currency, and no sum crosses two. */
import { one } from './selectors.ts';

/** Digits of the minor unit by ISO 4217, where they are not two. A test holds the list equal to that of Node. */
export const digitsOfCurrency: Readonly<Record<number, readonly string[]>> = {
  0: [
    ...['BIF', 'CLP', 'DJF', 'GNF', 'ISK', 'JPY', 'KMF', 'KRW', 'PYG'],
    ...['RWF', 'UGX', 'UYI', 'VND', 'VUV', 'XAF', 'XOF', 'XPF'],
  ],
  3: ['BHD', 'IQD', 'JOD', 'KWD', 'LYD', 'OMR', 'TND'],
  4: ['CLF', 'UYW'],
};

export interface MoneyQuery {
  readonly refId: string;
  readonly expr: string;
  readonly unit: string;
  readonly decimals: number;
}

/** Thousands apart, and always as many decimals as are said: 2,141.30. The currency is in the name beside it. */
export const AS_MONEY = 'currency:financial: :suffix';

/** Money at risk in whole units, one query for each number of digits; what is no currency code stays as it is. */
export function moneyAtRisk(): MoneyQuery[] {
  const sum = (matcher: string) =>
    `sum by (currency) (${one('counterfoil_money_at_risk_minor', ['check', 'currency'], matcher)})`;
  const odd = Object.entries(digitsOfCurrency);
  return [
    {
      refId: 'digits_2',
      expr: `${sum(`currency=~"[A-Z]{3}",currency!~"${odd.flatMap(([, codes]) => codes).join('|')}"`)} / 100 > 0`,
      unit: AS_MONEY,
      decimals: 2,
    },
    ...odd.map(([digits, codes]) => ({
      refId: `digits_${digits}`,
      expr: `${sum(`currency=~"${codes.join('|')}"`)} / ${10 ** Number(digits)} > 0`,
      unit: AS_MONEY,
      decimals: Number(digits),
    })),
    {
      refId: 'minor',
      expr: `label_replace(${sum('currency!~"[A-Z]{3}"')}, "currency", "$1 (minor units)", "currency", "(.*)") > 0`,
      unit: 'locale',
      decimals: 0,
    },
  ];
}
