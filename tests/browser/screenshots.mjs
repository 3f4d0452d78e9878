// Screenshots of the demo page, as a user sees it on a desk and on a phone:
//   node screenshots.mjs URL BROWSER FOLDER
import { chromium } from "playwright-core";

const [url, executablePath, folder] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });

for (const [width, height] of [[1280, 800], [375, 812]]) {
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme: "light",
    reducedMotion: "reduce",
    locale: "en-GB",
  });
  const page = await context.newPage();
  await page.goto(url);
  await page.locator("[name=email]").fill(`ann-${width}@example.com`);
  await page.locator("#enter [name=password]").fill("correct-horse-1");
  await page.locator("button[value=signup]").click();
  await page.locator("[data-do=admin]").click();
  await page.getByText("You have the role admin.").waitFor();
  await page.locator("[data-call='GET /whoami/admin']").click();
  await page.locator("#received").waitFor();
  const seen = await page.locator("#line").evaluate((line) => {
    const { top, bottom } = line.getBoundingClientRect();
    return top >= 0 && bottom <= innerHeight;
  });
  if (!seen) throw new Error(`at ${width} px the answer is out of sight`);
  await page.screenshot({ path: `${folder}/demo-${width}.png`, fullPage: true });
  await context.close();
}
await browser.close();
