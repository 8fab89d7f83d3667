//! The device program: answers easy images here and sends the hard ones to the cloud.
